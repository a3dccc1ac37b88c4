//! Query options of writes: dry run, field manager, field validation. Follows upstream's option validation.

use apimachinery::codec::FieldValidation;
use apimachinery::field::{ErrorList, FieldError, Path};
use apimachinery::gvk::GroupKind;
use apimachinery::status::Status;

use crate::http::request::Query;
use crate::registry::{DeleteOptions, ReadOptions, WatchOptions};

/// Longest field manager.
const MAX_MANAGER_BYTES: usize = 128;

/// What a write may be asked for.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// What happens to unknown fields.
    pub validation: FieldValidation,
    /// Apply takes over conflicting fields.
    pub force: bool,
}

/// Reads and checks the options of a create, update or patch (`kind` names them in refusals); `error` is one found already.
///
/// # Errors
/// 422 for values that are not known.
pub fn write(query: &Query, kind: &str, error: Option<FieldError>) -> Result<WriteOptions, Status> {
    let mut errors = ErrorList::from_iter(error);
    dry_run(query, &mut errors);
    if let Some(manager) = query.get("fieldManager") {
        if manager.len() > MAX_MANAGER_BYTES {
            errors.push(FieldError::too_long(Path::new("fieldManager"), MAX_MANAGER_BYTES));
        } else if manager.chars().any(char::is_control) {
            let detail = "should only contain printable characters";
            errors.push(FieldError::invalid(Path::new("fieldManager"), manager, detail));
        }
    }
    let validation = match query.get("fieldValidation") {
        None | Some("" | "Warn") => FieldValidation::Warn,
        Some("Strict") => FieldValidation::Strict,
        Some("Ignore") => FieldValidation::Ignore,
        Some(other) => {
            let known = ["Ignore", "Strict", "Warn", ""];
            errors.push(FieldError::not_supported(Path::new("fieldValidation"), other, &known));
            FieldValidation::Warn
        }
    };
    if errors.is_empty() {
        return Ok(WriteOptions { validation, force: query.flag("force") });
    }
    Err(invalid(kind, &errors))
}

fn invalid(kind: &str, errors: &ErrorList) -> Status {
    Status::invalid(&GroupKind { group: "meta.k8s.io".to_owned(), kind: kind.to_owned() }, "", errors)
}

fn dry_run(query: &Query, errors: &mut ErrorList) {
    if let Some(value) = query.all("dryRun").find(|value| *value != "All") {
        errors.push(FieldError::not_supported(Path::new("dryRun"), value, &["All"]));
    }
}

/// Options of list and watch.
///
/// # Errors
/// 400 for a limit or a timeout that is no number.
pub fn read(query: &Query) -> Result<ReadOptions, Status> {
    let text = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let limit = match query.get("limit") {
        None => 0,
        Some(limit) => limit
            .parse::<i64>()
            .map_err(|_| Status::bad_request(format!("limit={limit:?} is not a number")))?
            .try_into()
            .unwrap_or(0),
    };
    if let Some(seconds) = query.get("timeoutSeconds").filter(|seconds| !seconds.is_empty())
        && seconds.parse::<i64>().is_err()
    {
        return Err(Status::bad_request(format!("timeoutSeconds={seconds:?} is not a number")));
    }
    Ok(ReadOptions {
        label_selector: text("labelSelector"),
        field_selector: text("fieldSelector"),
        resource_version: text("resourceVersion"),
        resource_version_match: text("resourceVersionMatch"),
        limit,
        continue_token: text("continue"),
    })
}

/// Options of a watch.
///
/// # Errors
/// As for [`read`].
pub fn watch(query: &Query) -> Result<WatchOptions, Status> {
    Ok(WatchOptions {
        read: read(query)?,
        bookmarks: query.flag("allowWatchBookmarks"),
        send_initial_events: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
    })
}

/// Options of a deletion without a body.
///
/// # Errors
/// 400 for a grace period that is no number.
pub fn delete(query: &Query) -> Result<DeleteOptions, Status> {
    let text = |name: &str| query.get(name).filter(|value| !value.is_empty()).map(str::to_owned);
    let number = |text: String| {
        text.parse::<i64>().map_err(|_| Status::bad_request(format!("gracePeriodSeconds={text:?} is not a number")))
    };
    Ok(DeleteOptions {
        grace_period_seconds: text("gracePeriodSeconds").map(number).transpose()?,
        orphan_dependents: query.get("orphanDependents").map(|_| query.flag("orphanDependents")),
        propagation_policy: text("propagationPolicy"),
        dry_run: query.all("dryRun").map(str::to_owned).collect(),
        uid: text("uid"),
        resource_version: text("resourceVersion"),
    })
}
