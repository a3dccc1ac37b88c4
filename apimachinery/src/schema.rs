//! The schema table: every field of every type, from which decoding, defaults, patches, apply, protobuf and OpenAPI are derived.
//!
//! Guarantees: the built-in types are statics (no start-up cost, no heap). A custom resource builds the same [`Type`] at
//! run time; consumers take `&Type` and cannot tell the difference. Knows nothing of values.

use std::ops::Deref;
use std::sync::Arc;

use crate::structural::Schema;

/// Something that is either built in or was made at run time.
#[derive(Debug)]
pub enum Held<T: ?Sized + 'static> {
    /// Part of the program.
    Static(&'static T),
    /// Made at run time, shared.
    Shared(Arc<T>),
}

impl<T: ?Sized> Clone for Held<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Static(it) => Self::Static(it),
            Self::Shared(it) => Self::Shared(Arc::clone(it)),
        }
    }
}

impl<T: ?Sized> Deref for Held<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self {
            Self::Static(it) => it,
            Self::Shared(it) => it,
        }
    }
}

impl From<&'static str> for Held<str> {
    fn from(text: &'static str) -> Self {
        Self::Static(text)
    }
}

impl From<String> for Held<str> {
    fn from(text: String) -> Self {
        Self::Shared(text.into())
    }
}

impl<T> From<Vec<T>> for Held<[T]> {
    fn from(items: Vec<T>) -> Self {
        Self::Shared(items.into())
    }
}

/// A group, version and kind a type is registered under.
#[derive(Clone, Debug)]
pub struct Gvk {
    /// API group; empty for core.
    pub group: Held<str>,
    /// Version.
    pub version: Held<str>,
    /// Kind.
    pub kind: Held<str>,
}

/// One struct of the API.
#[derive(Clone, Debug)]
pub struct Type {
    /// OpenAPI definition name, e.g. `io.k8s.api.core.v1.Pod`.
    pub name: Held<str>,
    /// Kinds this type is registered under; empty for parts.
    pub gvk: Held<[Gvk]>,
    /// In declaration order.
    pub fields: Held<[Field]>,
    /// The [`mark`] of each field: to look for a name in them touches a tenth of the memory that the fields take.
    marks: &'static [u16],
    /// The fields in the order of protobuf; see [`Type::records`].
    order: &'static [u16],
    /// Whether server-side apply treats the whole struct as one value.
    pub map_type: MapType,
    /// JSON form that is not an object of its fields.
    pub special: Special,
    /// `(discriminator, [(field, discriminator's value)])`.
    pub unions: &'static [Union],
    /// Has a protobuf form.
    pub proto: bool,
    /// Appears in the published OpenAPI documents.
    pub published: bool,
    /// What a custom resource looks like; its `fields` are empty.
    pub custom: Option<Arc<Schema>>,
}

/// `(discriminator field or empty, [(member field, its discriminator value)])`.
pub type Union = (&'static str, &'static [(&'static str, &'static str)]);

impl Type {
    /// The type of a custom resource.
    pub fn of_custom(name: String, gvk: Vec<Gvk>, schema: Arc<Schema>) -> Self {
        Self {
            name: name.into(),
            gvk: gvk.into(),
            fields: Vec::new().into(),
            marks: &[],
            order: &[],
            map_type: MapType::Unset,
            special: Special::No,
            unions: &[],
            proto: false,
            published: true,
            custom: Some(schema),
        }
    }

    /// The field with this JSON name, also when it comes from an inlined struct.
    pub fn field(&self, json: &str) -> Option<&Field> {
        match self.position(json.as_bytes()) {
            Some(at) => self.fields.get(at),
            None => self.marked(|mark| mark == INLINE).find_map(|field| match &field.slot.kind {
                Kind::Ref(ty) => ty.field(json),
                _ => None,
            }),
        }
    }

    /// The position among [`Type::fields`] of the field with this JSON name; those of inlined structs are not looked at.
    pub(crate) fn position(&self, json: &[u8]) -> Option<usize> {
        let wanted = mark(json);
        let mut marks = self.marks.iter().enumerate().filter(|(_, mark)| **mark & !ZEROED == wanted);
        marks.find_map(|(at, _)| self.fields.get(at).filter(|field| field.json.as_bytes() == json).map(|_| at))
    }

    /// The fields that are written even when nothing was given, and the inlined ones. Among them are those of a [`Special`]
    /// form, which are left out when `omitempty`: a type's form cannot be read where the marks are made.
    pub(crate) fn zeroed(&self) -> impl Iterator<Item = &Field> {
        self.marked(|mark| mark & ZEROED != 0)
    }

    fn marked(&self, wanted: impl Fn(u16) -> bool) -> impl Iterator<Item = &Field> {
        self.marks.iter().zip(self.fields.iter()).filter_map(move |(mark, field)| wanted(*mark).then_some(field))
    }

    /// Positions of the fields that have a protobuf form, ascending by number, and whether an absent one is left out.
    pub(crate) fn records(&self) -> impl Iterator<Item = (usize, bool)> {
        let numbered = self.order.iter().filter(|position| **position != NO_RECORD);
        numbered.map(|position| (usize::from(position & !LEFT_OUT), position & LEFT_OUT != 0))
    }

    /// Calls `visit` for every JSON field, inlined ones included, in declaration order.
    pub fn for_each_field<'a>(&'a self, visit: &mut dyn FnMut(&'a Field)) {
        for field in self.fields.iter() {
            match &field.slot.kind {
                Kind::Ref(ty) if field.inline => ty.for_each_field(visit),
                _ => visit(field),
            }
        }
    }

    /// `true` when the type is a kind of its own (has `apiVersion` and `kind`).
    pub fn is_kind(&self) -> bool {
        !self.gvk.is_empty()
    }
}

/// One field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// JSON name; empty when inlined.
    pub json: Held<str>,
    /// Protobuf field number; 0 when it has none.
    pub pb: u32,
    /// Protobuf wire type of one record.
    pub wire: Wire,
    /// JSON: the struct's fields appear in the parent. Protobuf: a message of its own.
    pub inline: bool,
    /// A pointer upstream: absent and zero differ.
    pub ptr: bool,
    /// Required in OpenAPI.
    pub required: bool,
    /// When JSON leaves it out.
    pub omit: Omit,
    /// Strategic merge: merge elements instead of replacing the list.
    pub patch_merge: bool,
    /// Strategic merge: honour `$retainKeys`.
    pub patch_retain_keys: bool,
    /// Strategic merge: replace, said explicitly.
    pub patch_replace: bool,
    /// Key by which strategic merge matches elements; empty when none.
    pub patch_merge_key: Held<str>,
    /// What the value is.
    pub slot: Held<Slot>,
}

/// What a field's, an element's or a map entry's value is.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Its shape.
    pub kind: Kind,
    /// OpenAPI's default (server-side defaulting is in `codec::apply_defaults`).
    pub default: DefaultValue,
    /// Allowed strings; empty when free.
    pub enum_values: Held<[&'static str]>,
    /// For lists: how apply merges them.
    pub list_type: ListType,
    /// For lists of type map: the key fields.
    pub list_keys: Held<[&'static str]>,
    /// For maps and structs: whether apply treats it as one value.
    pub map_type: MapType,
}

/// The shape of a value.
#[derive(Clone, Debug)]
pub enum Kind {
    /// UTF-8 text.
    String,
    /// true or false.
    Bool,
    /// 32-bit signed.
    Int32,
    /// 64-bit signed.
    Int64,
    /// Double.
    Float64,
    /// base64 text in JSON.
    Bytes,
    /// Anything.
    Any,
    /// `resource.Quantity`.
    Quantity,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// Go duration text.
    Duration,
    /// Number or text.
    IntOrString,
    /// A field set of managedFields.
    FieldsV1,
    /// An object of any kind.
    RawExtension,
    /// A struct.
    Ref(Held<Type>),
    /// A list.
    List(Held<Slot>),
    /// A map with text keys.
    Map(Held<Slot>),
    /// A list in JSON, a message with a list in protobuf.
    WrappedList(Held<Slot>),
}

/// A constant that stands for an absent value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// None.
    No,
    /// Text.
    Str(&'static str),
    /// Number.
    Int(i64),
    /// Boolean.
    Bool(bool),
    /// `{}`.
    EmptyObject,
    /// Any JSON text.
    Json(&'static str),
}

impl DefaultValue {
    /// As a JSON value; `None` for [`DefaultValue::No`].
    pub fn to_value(self) -> Option<serde_json::Value> {
        Some(match self {
            Self::No => return None,
            Self::Str(text) => text.into(),
            Self::Int(number) => number.into(),
            Self::Bool(value) => value.into(),
            Self::EmptyObject => serde_json::Value::Object(serde_json::Map::new()),
            Self::Json(text) => serde_json::from_str(text).ok()?,
        })
    }
}

/// Protobuf wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Not in protobuf.
    None,
    /// Type 0.
    Varint,
    /// Type 1.
    Fixed64,
    /// Type 2.
    Bytes,
}

/// When Go's JSON leaves a field out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omit {
    /// Never: absent is written as null, zero or empty.
    Never,
    /// Never, and an empty list is no absent one: of kinds that upstream stores as JSON.
    Kept,
    /// `omitempty`: empty lists, maps, scalars and nil pointers; structs stay.
    Empty,
    /// Only nil: an empty list is a value that validation is to see.
    Nil,
    /// Always: the field belongs to a feature that is off by default.
    Off,
    /// `omitzero`: also structs whose every field is zero.
    Zero,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// Not given: atomic.
    Unset,
    /// One value.
    Atomic,
    /// Elements are owned one by one, identified by their value.
    Set,
    /// Elements are owned one by one, identified by their keys.
    Map,
}

/// `x-kubernetes-map-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapType {
    /// Not given: granular.
    Unset,
    /// One value.
    Atomic,
    /// Entries are owned one by one.
    Granular,
}

/// JSON forms that are not an object of the struct's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// An ordinary struct.
    No,
    /// Any JSON value.
    Json,
    /// A schema or a list of schemas.
    SchemaOrArray,
    /// A schema or a boolean.
    SchemaOrBool,
    /// A schema or a list of names.
    SchemaOrStringArray,
}

const fn gvk(group: &'static str, version: &'static str, kind: &'static str) -> Gvk {
    Gvk { group: Held::Static(group), version: Held::Static(version), kind: Held::Static(kind) }
}

/// A generated field; `bits` are inline, ptr, required, merge, retainKeys, replace from the lowest up.
const fn field(
    json: &'static str,
    pb: u32,
    wire: Wire,
    bits: u8,
    omit: Omit,
    merge_key: &'static str,
    slot: &'static Slot,
) -> Field {
    Field {
        json: Held::Static(json),
        pb,
        wire,
        inline: bits & 1 != 0,
        ptr: bits & 2 != 0,
        required: bits & 4 != 0,
        omit,
        patch_merge: bits & 8 != 0,
        patch_retain_keys: bits & 16 != 0,
        patch_replace: bits & 32 != 0,
        patch_merge_key: Held::Static(merge_key),
        slot: Held::Static(slot),
    }
}

/// Set in the [`mark`] of a field that is in [`Type::zeroed`].
const ZEROED: u16 = 1 << 15;
/// The [`mark`] of a struct whose fields stand between those of the outer one; its own name is empty.
const INLINE: u16 = ZEROED;

/// Tells most names of a type apart: the length and the last byte.
const fn mark(name: &[u8]) -> u16 {
    match name.last() {
        Some(last) => (name.len() as u16 & 0x7f) << 8 | *last as u16,
        None => 0,
    }
}

const fn marks<const N: usize>(fields: &[Field; N]) -> [u16; N] {
    let (mut marks, mut at) = ([INLINE; N], 0);
    while at < N {
        let field = &fields[at];
        if let (false, Held::Static(name), Held::Static(slot)) = (field.inline, &field.json, &field.slot) {
            // Structs in Go, on which `omitempty` has no effect.
            let structs = matches!(
                slot.kind,
                Kind::Ref(_) | Kind::Quantity | Kind::IntOrString | Kind::Time | Kind::MicroTime | Kind::RawExtension
            );
            let zeroed = match field.omit {
                Omit::Never | Omit::Kept => true,
                Omit::Empty => !field.ptr && structs,
                Omit::Zero | Omit::Nil | Omit::Off => false,
            };
            marks[at] = mark(name.as_bytes()) | if zeroed { ZEROED } else { 0 };
        }
        at += 1;
    }
    marks
}

/// An entry of [`Type::order`] for a field without a number.
const NO_RECORD: u16 = u16::MAX;
/// Set in [`Type::order`] when an absent field is left out; another one is written as its zero value.
const LEFT_OUT: u16 = 1 << 15;

const fn order<const N: usize>(fields: &[Field; N]) -> [u16; N] {
    let (mut order, mut filled, mut above) = ([NO_RECORD; N], 0, 0);
    while filled < N {
        let (mut at, mut next) = (0, N);
        while at < N {
            if fields[at].pb > above && (next == N || fields[at].pb < fields[next].pb) {
                next = at;
            }
            at += 1;
        }
        if next == N {
            break;
        }
        let field = &fields[next];
        above = field.pb;
        let Held::Static(slot) = &field.slot else { break };
        let many = matches!(slot.kind, Kind::List(_) | Kind::Map(_) | Kind::Bytes | Kind::WrappedList(_));
        order[filled] = next as u16 | if !field.inline && (many || field.ptr) { LEFT_OUT } else { 0 };
        filled += 1;
    }
    order
}

const fn slot(
    kind: Kind,
    default: DefaultValue,
    enum_values: &'static [&'static str],
    list_type: ListType,
    list_keys: &'static [&'static str],
    map_type: MapType,
) -> Slot {
    Slot {
        kind,
        default,
        enum_values: Held::Static(enum_values),
        list_type,
        list_keys: Held::Static(list_keys),
        map_type,
    }
}

const N: DefaultValue = DefaultValue::No;

/// A value of any shape.
pub static ANY: Slot = slot(Kind::Any, N, &[], ListType::Unset, &[], MapType::Unset);

include!(concat!(env!("OUT_DIR"), "/types.rs"));

/// The built-in type registered under a group, version and kind.
pub fn lookup(group: &str, version: &str, kind: &str) -> Option<&'static Type> {
    let found = BY_KIND.binary_search_by(|(key, _)| key.cmp(&(group, version, kind))).ok()?;
    Some(BY_KIND[found].1)
}

/// The built-in type with an OpenAPI definition name.
pub fn by_name(name: &str) -> Option<&'static Type> {
    let found = BY_NAME.binary_search_by(|(key, _)| (*key).cmp(name)).ok()?;
    Some(BY_NAME[found].1)
}

/// Every built-in type, sorted by definition name.
pub fn all() -> impl Iterator<Item = &'static Type> {
    BY_NAME.iter().map(|(_, ty)| *ty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_types_and_inlined_fields() {
        let pod = lookup("", "v1", "Pod").unwrap();
        assert_eq!(&*pod.name, "io.k8s.api.core.v1.Pod");
        let Kind::Ref(spec) = &pod.field("spec").unwrap().slot.kind else { panic!("spec") };
        let volumes = spec.field("volumes").unwrap();
        assert!(volumes.patch_merge && volumes.patch_retain_keys);
        assert_eq!(&*volumes.patch_merge_key, "name");
        let Kind::List(element) = &volumes.slot.kind else { panic!("list") };
        let Kind::Ref(volume) = &element.kind else { panic!("ref") };
        assert!(volume.field("emptyDir").unwrap().ptr);
        assert!(volume.field("nothing").is_none());
        assert!(lookup("apps", "v1", "Pod").is_none());
        assert!(by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").is_some());
    }
}
