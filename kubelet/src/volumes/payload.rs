//! Volumes whose files come from the API: configMap, secret, downwardAPI and projected (with tokens).
//!
//! `collect` gathers the files, `write` brings them to the node through the atomic writer. Both run again at
//! `refresh_at`, so that changes and new tokens reach running pods.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as core;

use super::atomic::{self, File, Files};
use super::{Mounted, empty_dir, mounts, ownership};
use crate::context::Context;
use crate::pods::env::{Lookups, field_value, resource_value};
use crate::pods::types::Pod;

/// The files of one volume.
#[derive(Debug, Default)]
pub struct Payload {
    pub files: Files,
    /// When to collect again; none when nothing can change.
    pub refresh_at: Option<Timestamp>,
}

/// The plugin's directory name for a kind that this module serves.
pub fn plugin(volume: &core::Volume) -> Option<&'static str> {
    if volume.config_map.is_some() {
        Some("configmap")
    } else if volume.secret.is_some() {
        Some("secret")
    } else if volume.downward_api.is_some() {
        Some("downward-api")
    } else if volume.projected.is_some() {
        Some("projected")
    } else {
        None
    }
}

/// Collects one volume's files step by step.
struct Collector<'a> {
    context: &'a Context,
    pod: &'a Pod,
    lookups: &'a Lookups,
    now: Timestamp,
    default_mode: u32,
    payload: Payload,
}

/// The files of a volume as the API has them now.
///
/// # Errors
/// A missing object or key that is not optional, with upstream's words.
pub async fn collect(
    context: &Context,
    pod: &Pod,
    volume: &core::Volume,
    lookups: &Lookups,
    now: Timestamp,
) -> Result<Payload, String> {
    let mode = |m: Option<i32>| m.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644);
    let mut collector = Collector { context, pod, lookups, now, default_mode: 0o644, payload: Payload::default() };
    if let Some(source) = &volume.config_map {
        collector.default_mode = mode(source.default_mode);
        collector.config_map(&source.name, source.items.as_deref(), source.optional).await?;
    } else if let Some(source) = &volume.secret {
        collector.default_mode = mode(source.default_mode);
        let name = source.secret_name.as_deref().unwrap_or_default();
        collector.secret(name, source.items.as_deref(), source.optional).await?;
    } else if let Some(source) = &volume.downward_api {
        collector.default_mode = mode(source.default_mode);
        collector.downward(source.items.as_deref())?;
    } else if let Some(source) = &volume.projected {
        collector.default_mode = mode(source.default_mode);
        for part in source.sources.iter().flatten() {
            collector.projection(part).await?;
        }
    }
    Ok(collector.payload)
}

impl Collector<'_> {
    fn refresh(&mut self, at: Timestamp) {
        self.payload.refresh_at = [self.payload.refresh_at, Some(at)].into_iter().flatten().min();
    }

    fn refresh_soon(&mut self) {
        self.refresh(self.now + self.context.sync_period);
    }

    fn add(&mut self, path: &str, content: Vec<u8>, mode: Option<i32>) {
        let mode = mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(self.default_mode);
        self.payload.files.insert(path.to_owned(), File { content, mode, user: None });
    }

    async fn config_map(
        &mut self,
        name: &str,
        items: Option<&[core::KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<(), String> {
        let optional = optional == Some(true);
        let found = self.context.objects.config_map(self.pod.namespace(), name, self.lookups.since).await?;
        let Some(map) = found else {
            self.refresh_soon();
            return if optional { Ok(()) } else { Err(format!("configmap \"{name}\" not found")) };
        };
        if map.immutable != Some(true) {
            self.refresh_soon();
        }
        let mut data: BTreeMap<String, Vec<u8>> =
            map.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes())).collect();
        data.extend(map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)));
        self.keys(data, items, optional, "configmap")
    }

    async fn secret(
        &mut self,
        name: &str,
        items: Option<&[core::KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<(), String> {
        let optional = optional == Some(true);
        let found = self.context.objects.secret(self.pod.namespace(), name, self.lookups.since).await?;
        let Some(secret) = found else {
            self.refresh_soon();
            return if optional { Ok(()) } else { Err(format!("secret \"{name}\" not found")) };
        };
        if secret.immutable != Some(true) {
            self.refresh_soon();
        }
        let data = secret.data.unwrap_or_default().into_iter().map(|(k, ByteString(v))| (k, v)).collect();
        self.keys(data, items, optional, "secret")
    }

    /// All keys, or the chosen ones under their paths.
    fn keys(
        &mut self,
        mut data: BTreeMap<String, Vec<u8>>,
        items: Option<&[core::KeyToPath]>,
        optional: bool,
        kind: &str,
    ) -> Result<(), String> {
        let Some(items) = items.filter(|i| !i.is_empty()) else {
            for (key, content) in data {
                self.add(&key, content, None);
            }
            return Ok(());
        };
        for item in items {
            match data.remove(&item.key) {
                Some(content) => {
                    data.insert(item.key.clone(), content.clone());
                    self.add(&item.path, content, item.mode);
                }
                None if optional => {}
                None => return Err(format!("{kind} references non-existent config key: {}", item.key)),
            }
        }
        Ok(())
    }

    fn downward(&mut self, items: Option<&[core::DownwardAPIVolumeFile]>) -> Result<(), String> {
        for item in items.unwrap_or_default() {
            let value = if let Some(field) = &item.field_ref {
                field_value(self.pod, &field.field_path, self.lookups)?
            } else if let Some(reference) = &item.resource_field_ref {
                let holder = reference.container_name.as_deref().unwrap_or_default();
                let divisor = reference.divisor.as_ref().map(|q| q.0.as_str());
                resource_value(self.pod, holder, &reference.resource, divisor, &self.lookups.allocatable)?
            } else {
                continue;
            };
            self.add(&item.path, value.into_bytes(), item.mode);
        }
        Ok(())
    }

    async fn projection(&mut self, part: &core::VolumeProjection) -> Result<(), String> {
        if let Some(source) = &part.config_map {
            self.config_map(&source.name, source.items.as_deref(), source.optional).await
        } else if let Some(source) = &part.secret {
            self.secret(&source.name, source.items.as_deref(), source.optional).await
        } else if let Some(source) = &part.downward_api {
            self.downward(source.items.as_deref())
        } else if let Some(source) = &part.service_account_token {
            self.token(source).await
        } else {
            let kind = serde_json::to_value(part).ok();
            let kind = kind.and_then(|v| v.as_object().and_then(|o| o.keys().next().cloned())).unwrap_or_default();
            Err(format!("projected volume source {kind} is not supported by this kubelet"))
        }
    }

    async fn token(&mut self, source: &core::ServiceAccountTokenProjection) -> Result<(), String> {
        let lifetime = source.expiration_seconds.unwrap_or(3600);
        let audience = source.audience.as_deref().unwrap_or_default();
        let token = self.context.objects.token(self.pod, audience, lifetime, self.now).await?;
        self.refresh(token.refresh_at.max(self.now + SignedDuration::from_secs(10)));
        let user = common_user(self.pod);
        let private = user.is_some() || ownership::fs_group(self.pod).is_some();
        let mode = if private { 0o600 } else { self.default_mode };
        let file = File { content: token.token.into_bytes(), mode, user };
        self.payload.files.insert(source.path.clone(), file);
        Ok(())
    }
}

/// The user of all containers, when it is one.
fn common_user(pod: &Pod) -> Option<u32> {
    let outer = pod.spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut users = pod.containers().map(|(_, c)| c.security_context.as_ref().and_then(|s| s.run_as_user).or(outer));
    let first = users.next().flatten()?;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

/// Brings the files to the volume's directory. Secrets and tokens never touch a disk.
///
/// # Errors
/// The step that failed.
pub fn write(dir: &Path, plugin: &str, payload: &Payload, pod: &Pod) -> Result<Mounted, String> {
    empty_dir::make(dir, 0o777)?;
    if plugin != "configmap" {
        mounts::tmpfs(dir, None)?;
    }
    let group = ownership::fs_group(pod);
    atomic::write(dir, &payload.files, |data| group.map_or(Ok(()), |g| ownership::apply(data, g, true)))?;
    Ok(Mounted { path: dir.to_owned(), read_only: true, refresh_at: payload.refresh_at, ..Mounted::default() })
}
