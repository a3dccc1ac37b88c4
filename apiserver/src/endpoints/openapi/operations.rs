//! The operations of a group and version as data, from which both OpenAPI versions are rendered.

use std::borrow::Cow;

use apimachinery::schema::{self, Kind, Type};

use crate::resources::{Resource, ResourceTable, Subresource};

/// A query or path parameter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parameter {
    /// Name.
    pub name: Cow<'static, str>,
    /// In the query, else in the path.
    pub in_query: bool,
    /// `string`, `integer` or `boolean`.
    pub ty: &'static str,
}

/// What a response or a body is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A published type.
    Type(String),
    /// Bytes of any media type.
    Stream,
    /// Text, also in the structured media types.
    Text,
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Lower-case HTTP method.
    pub method: &'static str,
    /// Unique name.
    pub id: String,
    /// `x-kubernetes-action`; empty for discovery.
    pub action: &'static str,
    /// Group, version and kind it speaks; `None` for discovery.
    pub gvk: Option<(String, String, String)>,
    /// Beyond those of the path.
    pub parameters: Vec<Parameter>,
    /// Definition name of the body, and whether it is required.
    pub body: Option<(String, bool)>,
    /// Status codes of success.
    pub codes: &'static [u16],
    /// What they carry.
    pub content: Content,
    /// Also served as a watch stream.
    pub streams: bool,
    /// The body is a patch.
    pub patch: bool,
    /// Of a custom resource.
    pub custom: bool,
}

/// A path and its operations.
#[derive(Clone, Debug)]
pub struct PathItem {
    /// With `{name}` and `{namespace}`.
    pub path: String,
    /// Tag of the operations.
    pub tag: String,
    /// In upstream's order of methods.
    pub operations: Vec<Operation>,
}

/// Definition names of meta types.
pub const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const LIST: &[&str] = &[
    "allowWatchBookmarks", "continue", "fieldSelector", "labelSelector", "limit", "resourceVersion",
    "resourceVersionMatch", "sendInitialEvents", "shardSelector", "timeoutSeconds", "watch",
];
const DELETE: &[&str] = &[
    "dryRun",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "orphanDependents",
    "propagationPolicy",
];
const DELETE_COLLECTION: &[&str] = &[
    "continue",
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "labelSelector",
    "limit",
    "orphanDependents",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "shardSelector",
    "timeoutSeconds",
];
const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

fn query(names: &[&'static str]) -> Vec<Parameter> {
    let ty = |name: &str| match name {
        "allowWatchBookmarks"
        | "sendInitialEvents"
        | "watch"
        | "orphanDependents"
        | "force"
        | "ignoreStoreReadErrorWithClusterBreakingPotential" => "boolean",
        "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
        _ => "string",
    };
    names.iter().map(|&name| Parameter { name: name.into(), in_query: true, ty: ty(name) }).collect()
}

/// `rbac.authorization.k8s.io` → `RbacAuthorization`; core → `Core`.
pub fn group_title(group: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    group.split(['.', '-']).map(title).collect()
}

fn title(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// `RbacAuthorization` → `rbacAuthorization`.
pub fn group_tag(group: &str) -> String {
    let title = group_title(group);
    let mut chars = title.chars();
    chars.next().map(|c| c.to_ascii_lowercase().to_string() + chars.as_str()).unwrap_or_default()
}

struct Builder<'r> {
    resource: &'r Resource,
    version: &'r str,
    ty: &'r Type,
    root: String,
    items: Vec<PathItem>,
}

impl Builder<'_> {
    fn base(&self) -> String {
        format!("{}{}", group_title(&self.resource.group), title(self.version))
    }

    fn operation(&self, method: &'static str, action: &'static str, id: String) -> Operation {
        let gvk = (self.resource.group.clone(), self.version.to_owned(), self.resource.kind.clone());
        Operation {
            method,
            id,
            action,
            gvk: Some(gvk),
            parameters: query(&["pretty"]),
            body: None,
            codes: &[200],
            content: Content::Type(self.ty.name.to_string()),
            streams: false,
            patch: false,
            custom: self.resource.custom.is_some(),
        }
    }

    fn has(&self, verb: &str) -> bool {
        self.resource.verbs.iter().any(|v| v == verb)
    }

    fn push(&mut self, path: String, operations: Vec<Operation>) {
        if operations.is_empty() {
            return;
        }
        let tag = format!("{}_{}", group_tag(&self.resource.group), self.version);
        self.items.push(PathItem { path, tag, operations });
    }

    fn list_type(&self) -> String {
        format!("{}List", &*self.ty.name)
    }

    /// `Namespaced` in the operation's name, when it is.
    fn scope(&self) -> &'static str {
        if self.resource.namespaced { "Namespaced" } else { "" }
    }

    fn list(&self, id: String) -> Operation {
        let mut list = self.operation("get", "list", id);
        list.parameters.extend(query(LIST));
        list.content = Content::Type(self.list_type());
        list.streams = true;
        list
    }

    fn write(&self, method: &'static str, action: &'static str, verb: &str, suffix: &str) -> Operation {
        let id = format!("{verb}{}{}{}{suffix}", self.base(), self.scope(), self.resource.kind);
        let mut write = self.operation(method, action, id);
        write.parameters.extend(query(WRITE));
        write.body = Some((self.ty.name.to_string(), true));
        write.codes = if method == "post" { &[200, 201, 202] } else { &[200, 201] };
        if method == "patch" {
            write.parameters.extend(query(&["force"]));
            write.body = Some((format!("{META}Patch"), true));
            write.patch = true;
        }
        write
    }

    fn collection(&mut self, path: String) {
        let (base, scope, kind) = (self.base(), self.scope(), self.resource.kind.clone());
        let mut operations = Vec::new();
        if self.has("list") {
            operations.push(self.list(format!("list{base}{scope}{kind}")));
        }
        if self.has("create") {
            operations.push(self.write("post", "post", "create", ""));
        }
        if self.has("deletecollection") {
            let mut delete =
                self.operation("delete", "deletecollection", format!("delete{base}Collection{scope}{kind}"));
            delete.parameters.extend(query(DELETE_COLLECTION));
            delete.body = Some((format!("{META}DeleteOptions"), false));
            delete.content = Content::Type(format!("{META}Status"));
            operations.push(delete);
        }
        self.push(path, operations);
    }

    fn object(&mut self, path: String) {
        let (base, scope, kind) = (self.base(), self.scope(), self.resource.kind.clone());
        let mut operations = Vec::new();
        if self.has("get") {
            operations.push(self.operation("get", "get", format!("read{base}{scope}{kind}")));
        }
        if self.has("update") {
            operations.push(self.write("put", "put", "replace", ""));
        }
        if self.has("delete") {
            let mut delete = self.operation("delete", "delete", format!("delete{base}{scope}{kind}"));
            delete.parameters.extend(query(DELETE));
            delete.body = Some((format!("{META}DeleteOptions"), false));
            delete.codes = &[200, 202];
            if !self.resource.behaviour.return_deleted_object || self.resource.kind == "Namespace" {
                delete.content = Content::Type(format!("{META}Status"));
            }
            operations.push(delete);
        }
        if self.has("patch") {
            operations.push(self.write("patch", "patch", "patch", ""));
        }
        self.push(path, operations);
    }

    fn watches(&mut self) {
        if !self.has("watch") {
            return;
        }
        let (base, scope, kind) = (self.base(), self.scope(), self.resource.kind.clone());
        let plural = &self.resource.plural;
        let own = if self.resource.namespaced { format!("namespaces/{{namespace}}/{plural}") } else { plural.clone() };
        let mut paths = vec![
            (own.clone(), "watchlist", format!("watch{base}{scope}{kind}List")),
            (format!("{own}/{{name}}"), "watch", format!("watch{base}{scope}{kind}")),
        ];
        if self.resource.namespaced {
            paths.push((plural.clone(), "watchlist", format!("watch{base}{kind}ListForAllNamespaces")));
        }
        for (path, action, id) in paths {
            let mut watch = self.operation("get", action, id);
            watch.parameters.extend(query(LIST));
            watch.content = Content::Type(format!("{META}WatchEvent"));
            watch.streams = true;
            self.push(format!("{}watch/{path}", self.root), vec![watch]);
        }
    }

    fn subresource(&mut self, object_path: &str, sub: &Subresource) {
        let path = format!("{object_path}/{}", sub.name);
        if !sub.behaviour.connect_methods.is_empty() {
            self.connect(&path, sub, "");
            if sub.name == "proxy" {
                self.connect(&format!("{path}/{{path}}"), sub, "WithPath");
            }
            return;
        }
        let suffix = title(&sub.name);
        let gvk = (sub.gvk.group.clone(), sub.gvk.version.clone(), sub.gvk.kind.clone());
        let own = sub.gvk.group == self.resource.group && sub.gvk.kind == self.resource.kind;
        let name = match &sub.ty {
            Some(ty) if !own => ty.name.to_string(),
            _ => self.ty.name.to_string(),
        };
        let mut operations = Vec::new();
        for method in METHODS {
            let (verb, action, spoken) = match method {
                "get" => ("get", "get", "read"),
                "put" => ("update", "put", "replace"),
                "post" => ("create", "post", "create"),
                "patch" => ("patch", "patch", "patch"),
                _ => continue,
            };
            if !sub.verbs.iter().any(|v| v == verb) {
                continue;
            }
            let mut operation = if method == "get" {
                let id = format!("read{}{}{}{suffix}", self.base(), self.scope(), self.resource.kind);
                self.operation("get", "get", id)
            } else {
                self.write(method, action, spoken, &suffix)
            };
            operation.content = Content::Type(name.clone());
            if !operation.patch && operation.body.is_some() {
                operation.body = Some((name.clone(), true));
            }
            if !own {
                operation.gvk = Some(gvk.clone());
            }
            if sub.behaviour.does.contains(&"getWithOptions") {
                operation.parameters.extend(options("PodLogOptions"));
                operation.content = Content::Text;
            }
            operations.push(operation);
        }
        self.push(path, operations);
    }

    fn connect(&mut self, path: &str, sub: &Subresource, with_path: &str) {
        let mut operations = Vec::new();
        for method in METHODS {
            if !sub.behaviour.connect_methods.iter().any(|m| m.eq_ignore_ascii_case(method)) {
                continue;
            }
            let (base, scope, kind) = (self.base(), self.scope(), &self.resource.kind);
            let id = format!("connect{base}{}{scope}{kind}{}{with_path}", title(method), title(&sub.name));
            let mut operation = self.operation(method, "connect", id);
            operation.parameters = options(&sub.gvk.kind);
            operation.content = Content::Stream;
            operation.gvk = Some((sub.gvk.group.clone(), sub.gvk.version.clone(), sub.gvk.kind.clone()));
            operations.push(operation);
        }
        self.push(path.to_owned(), operations);
    }
}

fn parameter_type(kind: &Kind) -> &'static str {
    match kind {
        Kind::Bool => "boolean",
        Kind::Int32 | Kind::Int64 => "integer",
        Kind::List(element) => parameter_type(&element.kind),
        _ => "string",
    }
}

/// The fields of a core options type as query parameters.
fn options(kind: &str) -> Vec<Parameter> {
    let mut parameters = Vec::new();
    if let Some(ty) = schema::lookup("", "v1", kind) {
        ty.for_each_field(&mut |field| {
            let ty = parameter_type(&field.slot.kind);
            if !matches!(&*field.json, "kind" | "apiVersion" | "sinceTime") {
                parameters.push(Parameter { name: field.json.to_string().into(), in_query: true, ty });
            }
        });
    }
    parameters
}

/// Parameters in the path's braces.
pub fn path_parameters(path: &str) -> Vec<Parameter> {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name.to_owned());
    names.map(|name| Parameter { name: name.into(), in_query: false, ty: "string" }).collect()
}

/// Every path of a group and version, sorted; the first is its discovery document.
pub fn paths(table: &ResourceTable, group: &str, version: &str) -> Vec<PathItem> {
    let root = if group.is_empty() { format!("/api/{version}/") } else { format!("/apis/{group}/{version}/") };
    let tag = format!("{}_{version}", group_tag(group));
    let id = format!("get{}{}APIResources", group_title(group), title(version));
    let mut items = Vec::new();
    // Upstream publishes the objects of custom groups only.
    if table.iter().any(|r| r.group == group && r.custom.is_none()) {
        items.push(PathItem { path: root.clone(), tag, operations: vec![document(id, "APIResourceList")] });
    }
    for resource in table.iter().filter(|r| r.group == group) {
        let Some(served) = resource.version(version) else { continue };
        let mut builder = Builder { resource, version, ty: &served.ty, root: root.clone(), items: Vec::new() };
        let own = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        let collection = format!("{root}{own}{}", resource.plural);
        builder.collection(collection.clone());
        builder.object(format!("{collection}/{{name}}"));
        for sub in resource.subresources_of(version) {
            builder.subresource(&format!("{collection}/{{name}}"), sub);
        }
        if resource.namespaced && builder.has("list") {
            let all = builder.list(format!("list{}{}ForAllNamespaces", builder.base(), resource.kind));
            builder.push(format!("{root}{}", resource.plural), vec![all]);
        }
        if resource.custom.is_none() {
            builder.watches();
        }
        items.extend(builder.items);
    }
    items.sort_by(|a, b| a.path.cmp(&b.path));
    items
}

/// A GET of a discovery document.
pub fn document(id: String, kind: &str) -> Operation {
    Operation {
        method: "get",
        id,
        action: "",
        gvk: None,
        parameters: Vec::new(),
        body: None,
        codes: &[200],
        content: Content::Type(format!("{META}{kind}")),
        streams: false,
        patch: false,
        custom: false,
    }
}
