//! Requests without credentials: allowed everywhere, on some paths, or nowhere.

use super::{ANONYMOUS, ConfigError, UNAUTHENTICATED};
use crate::http::request::UserInfo;

/// Where a request without credentials is let in as `system:anonymous`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// Nowhere.
    Off,
    /// On every path.
    Everywhere,
    /// On exactly these paths.
    Paths(Vec<String>),
}

impl Anonymous {
    /// From the flag and what the file says.
    ///
    /// # Errors
    /// Both speak.
    pub fn new(flag: Option<bool>, from_file: Option<Self>) -> Result<Self, ConfigError> {
        match (flag, from_file) {
            (Some(_), Some(_)) => Err(ConfigError::AnonymousTwice),
            (Some(false), None) => Ok(Self::Off),
            (_, None) => Ok(Self::Everywhere),
            (None, Some(from_file)) => Ok(from_file),
        }
    }

    /// The anonymous user, where it is let in.
    pub fn user(&self, path: &str) -> Option<UserInfo> {
        let allowed = match self {
            Self::Off => false,
            Self::Everywhere => true,
            Self::Paths(paths) => paths.iter().any(|p| p == path),
        };
        allowed.then(|| UserInfo {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_and_file() {
        let from_file = Anonymous::new(None, Some(Anonymous::Paths(vec!["/livez".into()]))).unwrap();
        assert!(from_file.user("/livez").is_some() && from_file.user("/livez/etcd").is_none());
        assert!(matches!(Anonymous::new(Some(true), Some(from_file)), Err(ConfigError::AnonymousTwice)));
        assert_eq!(Anonymous::new(Some(false), None).unwrap(), Anonymous::Off);
        assert_eq!(Anonymous::new(None, None).unwrap(), Anonymous::Everywhere);
    }
}
