//! What the server serves, one preferred version per resource, for controllers that work on every kind.

use std::time::{Duration, Instant};

use client::{Client, ClientError, ResourceRef};
use serde::Deserialize;
use tokio::sync::Mutex;

/// One served resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// How to address it.
    pub resource: ResourceRef,
    /// What can be done with it.
    pub verbs: Vec<String>,
    /// Whether its size can be read and set through `scale`.
    pub scalable: bool,
}

impl Served {
    /// Whether all of `verbs` are served.
    pub fn supports(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|served| served == verb))
    }
}

/// Everything served.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Discovery {
    /// One entry per group and plural name, in its preferred version.
    pub resources: Vec<Served>,
    /// Groups whose server does not answer at present, as `group/version`.
    pub failed: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GroupList {
    items: Vec<Group>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Group {
    metadata: GroupMeta,
    versions: Vec<Version>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GroupMeta {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Version {
    version: String,
    freshness: String,
    resources: Vec<Resource>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Resource {
    resource: String,
    response_kind: Option<Kind>,
    scope: String,
    verbs: Vec<String>,
    subresources: Vec<Subresource>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Subresource {
    subresource: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Kind {
    kind: String,
}

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Asks the server.
pub async fn discover(client: &Client) -> Result<Discovery, ClientError> {
    let mut discovery = Discovery::default();
    for path in ["/api", "/apis"] {
        let groups: GroupList = super::executor::get_json(client, path, ACCEPT).await?;
        for group in groups.items {
            add_group(&mut discovery, &group);
        }
    }
    Ok(discovery)
}

fn add_group(discovery: &mut Discovery, group: &Group) {
    let name = &group.metadata.name;
    let mut seen: Vec<&str> = Vec::new();
    for version in &group.versions {
        if version.freshness == "Stale" {
            discovery.failed.push(format!("{name}/{}", version.version));
        }
        for resource in &version.resources {
            let Some(kind) = &resource.response_kind else { continue };
            if seen.contains(&resource.resource.as_str()) {
                continue;
            }
            seen.push(&resource.resource);
            discovery.resources.push(Served {
                resource: ResourceRef::custom(
                    name,
                    &version.version,
                    &resource.resource,
                    &kind.kind,
                    resource.scope == "Namespaced",
                ),
                verbs: resource.verbs.clone(),
                scalable: resource.subresources.iter().any(|sub| sub.subresource == "scale"),
            });
        }
    }
}

/// What was asked so lately is not asked again.
const FRESH: Duration = Duration::from_secs(10);

/// Finds resources by their kinds, for references that name only these. Asks the server when it does not know a kind.
pub struct Kinds {
    client: Client,
    known: Mutex<Option<(Instant, Discovery)>>,
}

impl Kinds {
    /// Knows nothing yet.
    pub fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// Whoever asks.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The resource of a kind and whether it has `scale`; `None` when no such kind is served.
    pub async fn find(&self, api_version: &str, kind: &str) -> Result<Option<(ResourceRef, bool)>, ClientError> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let found = self.served(|resource| resource.group == group && resource.kind == kind).await?;
        Ok(found.map(|served| (served.resource, served.scalable)))
    }

    /// The resource of a plural name.
    pub async fn find_plural(&self, group: &str, plural: &str) -> Result<Option<ResourceRef>, ClientError> {
        let found = self.served(|resource| resource.group == group && resource.plural == plural).await?;
        Ok(found.map(|served| served.resource))
    }

    async fn served(&self, wanted: impl Fn(&ResourceRef) -> bool) -> Result<Option<Served>, ClientError> {
        let mut known = self.known.lock().await;
        let of = |discovery: &Discovery| discovery.resources.iter().find(|one| wanted(&one.resource)).cloned();
        if let Some((asked, discovery)) = &*known {
            let found = of(discovery);
            if found.is_some() || asked.elapsed() < FRESH {
                return Ok(found);
            }
        }
        let discovery = discover(&self.client).await?;
        let found = of(&discovery);
        *known = Some((Instant::now(), discovery));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_wins_and_stale_groups_are_named() {
        let groups: GroupList = serde_json::from_value(serde_json::json!({"items": [{
            "metadata": {"name": "autoscaling"},
            "versions": [
                {"version": "v2", "resources": [
                    {"resource": "horizontalpodautoscalers", "scope": "Namespaced", "verbs": ["get", "delete"],
                     "responseKind": {"group": "", "version": "", "kind": "HorizontalPodAutoscaler"}}]},
                {"version": "v1", "freshness": "Stale", "resources": [
                    {"resource": "horizontalpodautoscalers", "scope": "Namespaced", "verbs": ["get"],
                     "responseKind": {"kind": "HorizontalPodAutoscaler"}}]},
            ],
        }]}))
        .unwrap();
        let mut discovery = Discovery::default();
        add_group(&mut discovery, &groups.items[0]);
        assert_eq!(discovery.resources.len(), 1);
        assert_eq!(discovery.resources[0].resource.api_version(), "autoscaling/v2");
        assert!(discovery.resources[0].supports(&["delete"]));
        assert_eq!(discovery.failed, ["autoscaling/v1"]);
    }
}
