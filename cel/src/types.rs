//! What is known of values before they are seen: CEL's types, those of Kubernetes' schemas, and the names an expression may
//! use. A typed object has its declared fields only; of a dynamic value everything is accepted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use apimachinery::schema;
use serde_json::Value;

/// A type.
#[derive(Clone, Debug)]
pub enum Type {
    /// Known only at run time.
    Dyn,
    /// null
    Null,
    /// bool
    Bool,
    /// 64-bit signed
    Int,
    /// 64-bit unsigned
    Uint,
    /// double
    Double,
    /// string
    String,
    /// bytes
    Bytes,
    /// A span of time.
    Duration,
    /// A moment.
    Timestamp,
    /// The type of types.
    Type,
    /// A list.
    List(Arc<Type>),
    /// A map.
    Map(Arc<Type>, Arc<Type>),
    /// A value or none.
    Optional(Arc<Type>),
    /// An object with declared fields.
    Object(Arc<ObjectType>),
    /// A part of Kubernetes' API, its fields looked up as needed. For checking only: its values are dynamic.
    Builtin(schema::Held<schema::Type>),
    /// One of the libraries' own types.
    Opaque(&'static str),
    /// A parameter of a function's signature.
    Param(u8),
}

/// An object with declared fields.
#[derive(Debug)]
pub struct ObjectType {
    /// As errors name it.
    pub name: String,
    /// By name in expressions: name in JSON, and type.
    pub fields: BTreeMap<String, (String, Type)>,
}

impl ObjectType {
    /// With fields whose names are the same in JSON.
    pub fn of(name: &str, fields: &[(&str, Type)]) -> Type {
        let fields = fields.iter().map(|(field, ty)| ((*field).to_owned(), ((*field).to_owned(), ty.clone())));
        Type::Object(Arc::new(Self { name: name.to_owned(), fields: fields.collect() }))
    }
}

/// The type that lists of anything have.
pub(super) const DYN: &Type = &Type::Dyn;

impl Type {
    /// A list of these.
    pub fn list(self) -> Self {
        Self::List(Arc::new(self))
    }

    /// A map from strings to these.
    pub fn map(self) -> Self {
        Self::Map(Arc::new(Self::String), Arc::new(self))
    }

    /// `authorizer`
    pub fn authorizer() -> Self {
        Self::Opaque(super::functions::authorizer::AUTHORIZER)
    }

    /// `authorizer.requestResource`
    pub fn resource_check() -> Self {
        Self::Opaque(super::functions::authorizer::RESOURCE)
    }

    /// An amount.
    pub fn quantity() -> Self {
        Self::Opaque(super::functions::QUANTITY)
    }

    /// `JSONPatch{…}`
    pub fn json_patch() -> Self {
        Self::Opaque(super::check::PATCH)
    }

    /// `Object{…}`
    pub fn apply_configuration() -> Self {
        Self::Opaque(super::check::OBJECT)
    }

    /// These or nothing.
    pub fn optional(self) -> Self {
        Self::Optional(Arc::new(self))
    }

    /// The type of a structural OpenAPI schema (JSON of a CRD). `None` when rules cannot see the value at all. At the root
    /// and in embedded resources, of the metadata only the names are seen.
    pub fn of_schema(schema: &Value, root: bool) -> Option<Self> {
        if schema["x-kubernetes-int-or-string"] == true {
            return Some(Self::Dyn);
        }
        Some(match (schema["type"].as_str()?, schema["format"].as_str().unwrap_or_default()) {
            ("boolean", _) => Self::Bool,
            ("integer", _) => Self::Int,
            ("number", _) => Self::Double,
            ("string", "byte") => Self::Bytes,
            ("string", "duration") => Self::Duration,
            ("string", "date" | "date-time") => Self::Timestamp,
            ("string", _) => Self::String,
            ("array", _) => Self::of_schema(&schema["items"], false)?.list(),
            ("object", _) if schema["additionalProperties"].is_object() => {
                Self::of_schema(&schema["additionalProperties"], false)?.map()
            }
            ("object", _) => Self::of_object(schema, root || schema["x-kubernetes-embedded-resource"] == true),
            _ => return None,
        })
    }

    fn of_object(schema: &Value, resource: bool) -> Self {
        let mut fields = BTreeMap::new();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if let (Some(escaped), Some(ty)) = (escape(name), Self::of_schema(property, false)) {
                fields.insert(escaped, (name.clone(), ty));
            }
        }
        if resource {
            for name in ["apiVersion", "kind"] {
                fields.insert(name.to_owned(), (name.to_owned(), Self::String));
            }
            let metadata = ObjectType::of("metadata", &[("name", Self::String), ("generateName", Self::String)]);
            fields.insert("metadata".to_owned(), ("metadata".to_owned(), metadata));
        }
        Self::Object(Arc::new(ObjectType { name: "object".to_owned(), fields }))
    }

    /// The type of a field of a built-in kind.
    fn of_kind(kind: &schema::Kind) -> Self {
        use schema::Kind;
        match kind {
            Kind::String | Kind::Quantity => Self::String,
            Kind::Bool => Self::Bool,
            Kind::Int32 | Kind::Int64 => Self::Int,
            Kind::Float64 => Self::Double,
            Kind::Bytes => Self::Bytes,
            Kind::Time | Kind::MicroTime => Self::Timestamp,
            Kind::Duration => Self::String,
            Kind::Any | Kind::IntOrString | Kind::FieldsV1 | Kind::RawExtension => Self::Dyn,
            Kind::Ref(ty) => Self::Builtin(ty.clone()),
            Kind::List(slot) | Kind::WrappedList(slot) => Self::of_kind(&slot.kind).list(),
            Kind::Map(slot) => Self::of_kind(&slot.kind).map(),
        }
    }

    /// The type of a field, if it can be said; the outer `None` when there is no such field.
    pub(super) fn field(&self, name: &str) -> Option<Self> {
        match self {
            Self::Dyn => Some(Self::Dyn),
            Self::Map(_, value) => Some((**value).clone()),
            Self::Object(object) => object.fields.get(name).map(|(_, ty)| ty.clone()),
            Self::Builtin(ty) => {
                let json = ty.fields_by_escape(name)?;
                Some(Self::of_kind(&json.slot.kind))
            }
            Self::Optional(inner) => Some(match inner.field(name)? {
                already @ Self::Optional(_) => already,
                ty => ty.optional(),
            }),
            _ => None,
        }
    }

    /// Whether fields can be selected at all.
    pub(super) fn has_fields(&self) -> bool {
        match self {
            Self::Dyn | Self::Map(..) | Self::Object(_) | Self::Builtin(_) => true,
            Self::Optional(inner) => inner.has_fields(),
            _ => false,
        }
    }

    /// Whether a value of `other` may stand where this is wanted.
    pub fn accepts(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (Self::List(a), Self::List(b)) | (Self::Optional(a), Self::Optional(b)) => a.accepts(b),
            (Self::Map(ak, av), Self::Map(bk, bv)) => ak.accepts(bk) && av.accepts(bv),
            (Self::Object(a), Self::Object(b)) => Arc::ptr_eq(a, b) || a.name == b.name,
            (Self::Builtin(a), Self::Builtin(b)) => *a.name == *b.name,
            (Self::Opaque(a), Self::Opaque(b)) => a == b,
            (Self::Object(_) | Self::Builtin(_) | Self::Opaque(_) | Self::Duration | Self::Timestamp, Self::Null)
            | (Self::Null, Self::Object(_) | Self::Builtin(_) | Self::Opaque(_) | Self::Duration | Self::Timestamp) => {
                true
            }
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

trait ByEscape {
    fn fields_by_escape(&self, name: &str) -> Option<&schema::Field>;
}

impl ByEscape for schema::Type {
    fn fields_by_escape(&self, name: &str) -> Option<&schema::Field> {
        self.field(name).or_else(|| {
            let mut found = None;
            self.for_each_field(&mut |field| {
                if escape(&field.json).as_deref() == Some(name) {
                    found = Some(field);
                }
            });
            found
        })
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dyn => "dyn",
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Duration => "google.protobuf.Duration",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::Type => "type",
            Self::List(item) => return write!(f, "list({item})"),
            Self::Map(key, value) => return write!(f, "map({key}, {value})"),
            Self::Optional(inner) => return write!(f, "optional_type({inner})"),
            Self::Object(object) => &object.name,
            Self::Builtin(ty) => &ty.name,
            Self::Opaque(name) => name,
            Self::Param(name) => return write!(f, "{}", char::from(*name)),
        })
    }
}

/// Upstream's name in expressions for a property; `None` when it cannot have one.
pub fn escape(name: &str) -> Option<String> {
    const WORDS: [&str; 21] = [
        "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import",
        "let", "loop", "package", "namespace", "return", "var", "void", "while",
    ];
    if WORDS.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let first = name.chars().next()?;
    if !first.is_ascii_alphabetic() && first != '_' {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let (piece, used) = match c {
            '_' if rest.starts_with("__") => ("__underscores__", 2),
            '.' => ("__dot__", 1),
            '-' => ("__dash__", 1),
            '/' => ("__slash__", 1),
            _ if c.is_ascii_alphanumeric() || c == '_' => (&rest[..1], 1),
            _ => return None,
        };
        out.push_str(piece);
        rest = &rest[used..];
    }
    Some(out)
}

/// What an expression may use.
#[derive(Clone, Debug, Default)]
pub struct Env {
    pub(super) vars: Vec<(String, Type)>,
    pub(super) variables: Vec<(String, Type)>,
    pub(super) patches: bool,
}

impl Env {
    /// With nothing but the libraries.
    pub fn new() -> Self {
        Self::default()
    }

    /// With these names, of which nothing is known.
    pub fn dynamic(vars: &[&str]) -> Self {
        vars.iter().fold(Self::new(), |env, var| env.with(var, Type::Dyn))
    }

    /// What expressions that select devices see: `device.driver`, `device.attributes["DOMAIN"].NAME`,
    /// `device.capacity["DOMAIN"].NAME`. Those who accept such an expression and those who evaluate it must agree.
    pub fn of_device() -> Self {
        let fields = [
            ("driver", Type::String),
            ("attributes", Type::Dyn.map().map()),
            ("capacity", Type::quantity().map().map()),
            ("allowMultipleAllocations", Type::Bool),
        ];
        Self::new().with("device", ObjectType::of("kubernetes.DRADevice", &fields))
    }

    /// And this name.
    #[must_use]
    pub fn with(mut self, var: &str, ty: Type) -> Self {
        self.vars.push((var.to_owned(), ty));
        self
    }

    /// Lets `variables.NAME` stand for a program of its own; later ones may use earlier ones. Programs are given to
    /// [`super::Bindings::variables`] in the same order.
    pub fn add_variable(&mut self, name: &str, ty: Type) {
        self.variables.push((name.to_owned(), ty));
    }

    /// And the types that patches are made of: `Object…` and `JSONPatch`.
    #[must_use]
    pub fn with_patches(mut self) -> Self {
        self.patches = true;
        self
    }
}
