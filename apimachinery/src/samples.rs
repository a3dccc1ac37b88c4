//! Objects of every built-in type, made from arbitrary bytes by the schema table: for property tests.

use serde_json::{Map, Value, json};

use crate::schema::{Kind, Slot, Special, Type};

/// What is left of the bytes. Without any, everything is as small as can be.
pub(crate) struct Dice<'b>(pub(crate) std::slice::Iter<'b, u8>);

impl Dice<'_> {
    fn roll(&mut self, sides: usize) -> usize {
        self.0.next().map_or(0, |byte| usize::from(*byte) % sides)
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())].clone()
    }
}

/// An object of a type that has a protobuf form, without nulls, empty lists and empty maps.
pub(crate) fn object(ty: &Type, dice: &mut Dice) -> Value {
    let mut object = of_type(ty, dice);
    if let Some(gvk) = ty.gvk.first() {
        let group = if gvk.group.is_empty() { String::new() } else { format!("{}/", &*gvk.group) };
        object["apiVersion"] = format!("{group}{}", &*gvk.version).into();
        object["kind"] = (*gvk.kind).into();
    }
    object
}

fn of_type(ty: &Type, dice: &mut Dice) -> Value {
    match ty.special {
        Special::Json => return dice.pick(&[json!("x"), json!({"a": [1, "b"]}), json!(true)]),
        Special::SchemaOrBool => return json!(dice.roll(2) == 1),
        Special::SchemaOrArray => return json!({"type": "string"}),
        Special::SchemaOrStringArray => return json!(["a", "b"]),
        Special::No => {}
    }
    let mut map = Map::new();
    ty.for_each_field(&mut |field| {
        if field.pb != 0 && dice.roll(3) == 1 {
            map.insert((*field.json).to_owned(), of_slot(&field.slot, dice));
        }
    });
    map.into()
}

fn of_slot(slot: &Slot, dice: &mut Dice) -> Value {
    match &slot.kind {
        Kind::String if !slot.enum_values.is_empty() => dice.pick(&slot.enum_values).into(),
        Kind::String => dice.pick(&["", "a", "b-1", "é\"\n\\"]).into(),
        Kind::Bool => (dice.roll(2) == 1).into(),
        Kind::Int32 => dice.pick(&[0, 1, -1, i32::MAX, i32::MIN, 128]).into(),
        Kind::Int64 => dice.pick(&[0, 1, -1, i64::MAX, i64::MIN]).into(),
        Kind::Float64 => dice.pick(&[0.5, -2.25]).into(),
        Kind::Bytes => dice.pick(&["eA==", "AP//"]).into(),
        Kind::Any => dice.pick(&[json!("x"), json!({"a": [1, "b"]})]),
        Kind::Quantity => dice.pick(&["0", "500m", "2Gi"]).into(),
        Kind::Time => dice.pick(&["2024-01-01T00:00:00Z", "1969-12-31T23:59:59Z"]).into(),
        Kind::MicroTime => dice.pick(&["2024-01-01T00:00:00.000001Z", "1969-12-31T23:59:59.500000Z"]).into(),
        Kind::Duration => dice.pick(&["0s", "1m30s"]).into(),
        Kind::IntOrString => dice.pick(&[json!(0), json!(80), json!("10%"), json!("")]),
        Kind::FieldsV1 => json!({"f:a": {".": {}, "k:{\"b\":\"}\"}": {}}}),
        Kind::RawExtension => json!({"apiVersion": "v1", "kind": "X", "a": "}\""}),
        Kind::Ref(ty) => of_type(ty, dice),
        Kind::List(element) | Kind::WrappedList(element) => {
            (0..=dice.roll(2)).map(|_| of_slot(element, dice)).collect()
        }
        Kind::Map(entry) => {
            let keys = ["b", "a/x", "c~"].into_iter().skip(dice.roll(3));
            Value::Object(keys.map(|key| (key.to_owned(), of_slot(entry, dice))).collect())
        }
    }
}
