//! The executor against a store in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use apimachinery::gvk::GroupResource;
use apimachinery::meta;

use super::*;

type Key = (&'static str, &'static str, String, String);

#[derive(Default)]
struct Memory {
    objects: Mutex<BTreeMap<Key, Value>>,
    masters: Mutex<Vec<IpAddr>>,
    writes: Mutex<usize>,
}

fn key(resource: ResourceName<'static>, object: &Value) -> Key {
    (resource.0, resource.1, meta::namespace(object).to_owned(), meta::name(object).to_owned())
}

impl Memory {
    fn write(&self, key: Key, object: Value) {
        *self.writes.lock().unwrap() += 1;
        self.objects.lock().unwrap().insert(key, object);
    }
}

impl Store for Memory {
    fn get(&self, resource: ResourceName<'static>, namespace: &str, name: &str) -> Option<Value> {
        self.objects.lock().unwrap().get(&(resource.0, resource.1, namespace.to_owned(), name.to_owned())).cloned()
    }

    fn create(&self, resource: ResourceName<'static>, object: Value) -> BoxFuture<'_, Result<Value, Status>> {
        Box::pin(async move {
            let key = key(resource, &object);
            if self.objects.lock().unwrap().contains_key(&key) {
                return Err(Status::already_exists(&GroupResource::new(resource.0, resource.1), &key.3));
            }
            self.write(key, object.clone());
            Ok(object)
        })
    }

    fn update(
        &self,
        resource: ResourceName<'static>,
        _: &'static str,
        object: Value,
    ) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async move {
            self.write(key(resource, &object), object);
            Ok(())
        })
    }

    fn delete<'a>(
        &'a self,
        resource: ResourceName<'static>,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            self.objects.lock().unwrap().remove(&(resource.0, resource.1, namespace.to_owned(), name.to_owned()));
            Ok(())
        })
    }

    fn list(&self, resource: ResourceName<'static>, namespace: &str) -> Vec<Value> {
        let objects = self.objects.lock().unwrap();
        let wanted = |key: &&(&str, &str, String, String)| (key.0, key.1) == resource && key.2 == namespace;
        objects.iter().filter(|(key, _)| wanted(key)).map(|(_, object)| object.clone()).collect()
    }

    fn renew_master<'a>(&'a self, address: IpAddr, _: Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let mut masters = self.masters.lock().unwrap();
            if !masters.contains(&address) {
                masters.push(address);
            }
            Ok(())
        })
    }

    fn remove_master(&self, address: IpAddr) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async move {
            self.masters.lock().unwrap().retain(|master| *master != address);
            Ok(())
        })
    }

    fn masters(&self) -> BoxFuture<'_, Result<Vec<IpAddr>, Status>> {
        Box::pin(async move { Ok(self.masters.lock().unwrap().clone()) })
    }
}

#[tokio::test]
async fn a_fresh_cluster_and_a_restart() {
    let (store, facts) = (Memory::default(), desired::tests::facts());
    make_defaults(&store, &facts, &Progress::default()).await.unwrap();
    keep_up(&store, &facts, "me", &Progress::default()).await.unwrap();
    for (resource, namespace, name) in [
        (("", "namespaces"), "", "kube-system"),
        ((RBAC, "clusterroles"), "", "cluster-admin"),
        ((RBAC, "rolebindings"), "kube-public", "system:controller:bootstrap-signer"),
        (("", "services"), "default", "kubernetes"),
        (("", "endpoints"), "default", "kubernetes"),
        (("", "configmaps"), "kube-system", "extension-apiserver-authentication"),
        (("networking.k8s.io", "servicecidrs"), "", "kubernetes"),
    ] {
        assert!(store.get(resource, namespace, name).is_some(), "{resource:?} {name}");
    }
    let before = *store.writes.lock().unwrap();
    make_defaults(&store, &facts, &Progress::default()).await.unwrap();
    keep_up(&store, &facts, "me", &Progress::default()).await.unwrap();
    // Only the identity lease is renewed.
    assert_eq!(*store.writes.lock().unwrap(), before + 1);
}

#[tokio::test]
async fn conditions_are_written_after_the_object() {
    let (store, facts) = (Memory::default(), desired::tests::facts());
    make_defaults(&store, &facts, &Progress::default()).await.unwrap();
    for (resource, name) in [
        (("apiregistration.k8s.io", "apiservices"), "v1.apps"),
        (("networking.k8s.io", "servicecidrs"), "kubernetes"),
        ((FLOW, "flowschemas"), "catch-all"),
    ] {
        let object = store.get(resource, "", name).unwrap();
        assert!(object["status"]["conditions"][0]["type"].is_string(), "{object}");
    }
}

#[tokio::test]
async fn endpoints_follow_the_servers() {
    let (store, facts) = (Memory::default(), desired::tests::facts());
    let other: IpAddr = "192.0.2.9".parse().unwrap();
    store.renew_master(other, Value::Null).await.unwrap();
    keep_up(&store, &facts, "me", &Progress::default()).await.unwrap();
    let addresses = |store: &Memory| {
        store.get(("", "endpoints"), "default", "kubernetes").unwrap()["subsets"][0]["addresses"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(addresses(&store), 2);
    store.remove_master(other).await.unwrap();
    publish_endpoints(&store, &facts).await.unwrap();
    assert_eq!(addresses(&store), 1);
    store.remove_master(facts.advertise_address).await.unwrap();
    publish_endpoints(&store, &facts).await.unwrap();
    assert_eq!(addresses(&store), 1);
}

#[tokio::test]
async fn checks_wait_for_what_is_made() {
    let (store, facts, progress) = (Memory::default(), desired::tests::facts(), Progress::default());
    assert!(Hook::CHECKS.iter().all(|(hook, _)| progress.check(*hook).is_err()));
    make_defaults(&store, &facts, &progress).await.unwrap();
    assert!(progress.check(Hook::Roles).is_ok() && progress.check(Hook::Endpoints).is_err());
    keep_up(&store, &facts, "me", &progress).await.unwrap();
    collect_identities(&store, Timestamp::now(), &progress).await;
    let waiting: Vec<_> = Hook::CHECKS.iter().filter(|(hook, _)| progress.check(*hook).is_err()).collect();
    assert!(matches!(waiting.as_slice(), [(Hook::ServiceRepair, _)]), "{waiting:?}");
}

#[tokio::test]
async fn identities_of_servers_that_are_gone_are_removed() {
    let (store, facts) = (Memory::default(), desired::tests::facts());
    let now = Timestamp::now();
    let long_ago = now - jiff::SignedDuration::from_hours(2);
    let gone = Facts { hostname: "gone".into(), ..facts.clone() };
    store.create(LEASES, desired::identity_lease(&gone, "it", long_ago)).await.unwrap();
    store.create(LEASES, desired::identity_lease(&facts, "me", now)).await.unwrap();
    collect_identities(&store, now, &Progress::default()).await;
    let left = store.list(LEASES, "kube-system");
    assert_eq!((left.len(), apimachinery::meta::name(&left[0])), (1, desired::identity(&facts).as_str()));
}

#[tokio::test]
async fn a_server_that_is_no_endpoint() {
    let (store, facts) = (Memory::default(), Facts { is_endpoint: false, ..desired::tests::facts() });
    keep_up(&store, &facts, "me", &Progress::default()).await.unwrap();
    assert!(store.masters().await.unwrap().is_empty());
    assert!(store.get(("", "endpoints"), "default", "kubernetes").is_none());
    assert!(store.get(("", "services"), "default", "kubernetes").is_some());
}
