//! Lifecycle hooks: postStart and preStop handlers (exec, httpGet, sleep).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::context::Context;
use crate::probes::action::{self, HttpRequest};

/// How long a hook without another bound may take.
const DEFAULT_LIMIT: Duration = Duration::from_secs(600);

/// Runs a handler to its end.
///
/// # Errors
/// What went wrong, for the event.
pub async fn run(
    context: &Context,
    handler: &LifecycleHandler,
    container: &Container,
    container_id: &str,
    pod_ip: &str,
    limit: Option<Duration>,
) -> Result<(), String> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let output = context.runtime.exec_sync(container_id, &command, limit).await.map_err(|e| e.to_string())?;
        if output.exit_code != 0 {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            let code = output.exit_code;
            return Err(format!(
                "Exec lifecycle hook ({command:?}) for Container \"{}\" failed - error: command exited with {code}, message: {text:?}",
                container.name
            ));
        }
        return Ok(());
    }
    if let Some(get) = &handler.http_get {
        let request = HttpRequest::new(get, container, pod_ip)?;
        return action::http(&request, limit).await.and_then(|(status, body)| {
            if status < 400 { Ok(()) } else { Err(format!("HTTP lifecycle hook failed with status {status}: {body}")) }
        });
    }
    if let Some(sleep) = &handler.sleep {
        let wanted = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(wanted.min(limit)).await;
        return Ok(());
    }
    Err("invalid lifecycle handler: it has no exec, httpGet or sleep".to_owned())
}
