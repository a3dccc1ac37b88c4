//! Why a request failed, in three classes: the server answered so, the server was not reached, the answer was not understood.

use std::time::Duration;

use apimachinery::status::Status;

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with a failure.
    #[error("{0}")]
    Status(Status),
    /// No connection could be made. The text says what to look at.
    #[error("cannot connect to {server}: {reason}")]
    Connect {
        /// The server's URL.
        server: String,
        /// Why, and what may help.
        reason: String,
    },
    /// The connection failed under the request; the server may or may not have acted.
    #[error("request {request} failed on the way: {reason}")]
    Transport {
        /// Method and path.
        request: String,
        /// Why.
        reason: String,
    },
    /// The answer is not what was asked for.
    #[error("answer to {request} is not understood: {reason}")]
    Decode {
        /// Method and path.
        request: String,
        /// Why.
        reason: String,
    },
    /// The request could not be built.
    #[error("request cannot be built: {0}")]
    Request(String),
}

impl ClientError {
    /// The server's Status, where it answered.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Status(status) => Some(status),
            _ => None,
        }
    }

    fn is(&self, code: u16, reason: &str) -> bool {
        self.status().is_some_and(|s| s.code == code && (reason.is_empty() || s.reason == reason))
    }

    /// 404.
    pub fn is_not_found(&self) -> bool {
        self.is(404, "")
    }

    /// 409 because somebody else wrote in between.
    pub fn is_conflict(&self) -> bool {
        self.is(409, "Conflict")
    }

    /// 409 because the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.is(409, "AlreadyExists")
    }

    /// 403.
    pub fn is_forbidden(&self) -> bool {
        self.is(403, "")
    }

    /// 401.
    pub fn is_unauthorized(&self) -> bool {
        self.is(401, "")
    }

    /// 422.
    pub fn is_invalid(&self) -> bool {
        self.is(422, "")
    }

    /// 410: the version asked for is no longer held; list again.
    pub fn is_expired(&self) -> bool {
        self.is(410, "")
    }

    /// 429.
    pub fn is_too_many_requests(&self) -> bool {
        self.is(429, "")
    }

    /// How long the server asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.status()?.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
    }
}
