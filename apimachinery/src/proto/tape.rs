//! A JSON text as a flat table of where its values stand: one pass, no copies, no tree.
//!
//! Takes the text to be JSON, as what a server stored is; what breaks the form ends the reading. The field sets of
//! `metadata.managedFields`, more than half of a typical object, stay closed: they are one value, whose text can be had.

use std::borrow::Cow;

/// Levels of nesting that are read.
const MAX_DEPTH_LEVELS: usize = 128;
/// Bytes of text per value, roughly.
const TYPICAL_VALUE_BYTES: usize = 12;

/// Texts of field sets that are remembered: the managers of a few templates.
const MAX_KNOWN: usize = 8;
/// What is longer is not remembered.
const MAX_KNOWN_BYTES: usize = 8 << 10;

/// What reading one text leaves for the next: room, and field sets, which are alike in all objects of one template.
#[derive(Default)]
pub struct Scratch {
    nodes: Vec<Node>,
    known: Vec<Vec<u8>>,
    oldest: usize,
}

impl Scratch {
    /// The length of the field set that `text` begins with, if it is known.
    fn known(&self, text: &[u8]) -> Option<usize> {
        self.known.iter().find(|known| text.starts_with(known)).map(Vec::len)
    }

    fn remember(&mut self, text: &[u8]) {
        if text.len() > MAX_KNOWN_BYTES {
            return;
        }
        if self.known.len() < MAX_KNOWN {
            return self.known.push(text.to_vec());
        }
        self.known[self.oldest] = text.to_vec();
        self.oldest = (self.oldest + 1) % MAX_KNOWN;
    }
}

/// Where a value stands.
struct Node {
    start: u32,
    end: u32,
    /// The first value that is not within this one.
    after: u32,
    /// A string with escapes.
    escaped: bool,
}

/// The values of a text in its order; a member's key stands before its value.
pub(super) struct Tape<'j> {
    json: &'j [u8],
    nodes: &'j [Node],
}

impl<'j> Tape<'j> {
    /// Reads a text; `None` for what is not JSON, is nested too deeply or larger than 4 GiB.
    pub(super) fn read(json: &'j [u8], scratch: &'j mut Scratch) -> Option<Self> {
        u32::try_from(json.len()).ok()?;
        std::str::from_utf8(json).ok()?;
        scratch.nodes.clear();
        scratch.nodes.reserve(json.len() / TYPICAL_VALUE_BYTES);
        Reader { bytes: json, at: 0, scratch: &mut *scratch }.value(Place::Object, 0)?;
        Some(Self { json, nodes: &scratch.nodes })
    }

    /// The outermost value.
    pub(super) fn root(&self) -> At<'_> {
        At { tape: self, index: 0 }
    }
}

/// Where reading is, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Object,
    Metadata,
    Owners,
    Owner,
    Closed,
    Other,
}

impl Place {
    fn member(self, key: &[u8]) -> Self {
        match (self, key) {
            (Self::Object, b"metadata") => Self::Metadata,
            (Self::Metadata, b"managedFields") => Self::Owners,
            (Self::Owner, b"fieldsV1") => Self::Closed,
            _ => Self::Other,
        }
    }

    fn element(self) -> Self {
        if self == Self::Owners { Self::Owner } else { Self::Other }
    }
}

struct Reader<'j> {
    bytes: &'j [u8],
    at: usize,
    scratch: &'j mut Scratch,
}

#[allow(clippy::cast_possible_truncation)] // The text is shorter than 4 GiB, and has no more values than bytes.
impl Reader<'_> {
    fn open(&mut self) -> usize {
        self.scratch.nodes.push(Node { start: self.at as u32, end: 0, after: 0, escaped: false });
        self.scratch.nodes.len() - 1
    }

    fn close(&mut self, index: usize) {
        let after = self.scratch.nodes.len() as u32;
        let node = &mut self.scratch.nodes[index];
        (node.end, node.after) = (self.at as u32, after);
    }

    /// The next byte that is no blank.
    fn peek(&mut self) -> Option<u8> {
        while self.bytes.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn value(&mut self, place: Place, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH_LEVELS {
            return None;
        }
        let first = self.peek()?;
        let index = self.open();
        match first {
            b'"' => self.scratch.nodes[index].escaped = self.string()?,
            b'{' | b'[' if place == Place::Closed => self.skip()?,
            b'{' => self.members(place, depth)?,
            b'[' => self.elements(place, depth)?,
            _ => self.scalar(),
        }
        self.close(index);
        Some(())
    }

    fn members(&mut self, place: Place, depth: usize) -> Option<()> {
        self.at += 1;
        if self.peek()? != b'}' {
            loop {
                self.peek()?;
                let key = self.open();
                self.scratch.nodes[key].escaped = self.string()?;
                self.close(key);
                let below = place.member(&self.bytes[self.scratch.nodes[key].start as usize + 1..self.at - 1]);
                self.take(b':')?;
                self.value(below, depth + 1)?;
                if self.peek()? != b',' {
                    break;
                }
                self.at += 1;
            }
        }
        self.take(b'}')
    }

    fn elements(&mut self, place: Place, depth: usize) -> Option<()> {
        self.at += 1;
        if self.peek()? != b']' {
            loop {
                self.value(place.element(), depth + 1)?;
                if self.peek()? != b',' {
                    break;
                }
                self.at += 1;
            }
        }
        self.take(b']')
    }

    /// Passes a string; tells whether it has escapes.
    fn string(&mut self) -> Option<bool> {
        self.take(b'"')?;
        let mut escaped = false;
        loop {
            let rest = self.bytes.get(self.at..)?;
            let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
            self.at += end + 1;
            if rest[end] == b'"' {
                return Some(escaped);
            }
            escaped = true;
            self.at += 1;
        }
    }

    /// Passes an object or a list without looking into it.
    fn skip(&mut self) -> Option<()> {
        let (start, mut depth) = (self.at, 0_usize);
        if let Some(bytes) = self.scratch.known(&self.bytes[start..]) {
            self.at += bytes;
            return Some(());
        }
        loop {
            match *self.bytes.get(self.at)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                self.scratch.remember(&self.bytes[start..self.at]);
                return Some(());
            }
        }
    }

    fn scalar(&mut self) {
        let rest = &self.bytes[self.at..];
        let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
        self.at += rest.iter().position(ends).unwrap_or(rest.len());
    }
}

/// One value of a text.
#[derive(Clone, Copy)]
pub(super) struct At<'t> {
    tape: &'t Tape<'t>,
    index: usize,
}

impl<'t> At<'t> {
    fn node(self) -> &'t Node {
        &self.tape.nodes[self.index]
    }

    /// As it stands in the text.
    pub(super) fn raw(self) -> &'t [u8] {
        let node = self.node();
        &self.tape.json[node.start as usize..node.end as usize]
    }

    fn begins_with(self, byte: u8) -> bool {
        self.tape.json.get(self.node().start as usize) == Some(&byte)
    }

    pub(super) fn is_object(self) -> bool {
        self.begins_with(b'{')
    }

    pub(super) fn is_list(self) -> bool {
        self.begins_with(b'[')
    }

    pub(super) fn is_string(self) -> bool {
        self.begins_with(b'"')
    }

    /// The value, unless it is null.
    pub(super) fn given(self) -> Option<Self> {
        (!self.begins_with(b'n')).then_some(self)
    }

    /// A string's text; empty for anything else.
    pub(super) fn text(self) -> Cow<'t, [u8]> {
        let raw = self.raw();
        if self.node().escaped {
            return Cow::Owned(serde_json::from_slice::<String>(raw).unwrap_or_default().into_bytes());
        }
        Cow::Borrowed(raw.strip_prefix(b"\"").and_then(|raw| raw.strip_suffix(b"\"")).unwrap_or_default())
    }

    /// What is directly below, if it begins so: the elements of a list, the keys and values of an object in turn.
    fn below(self, with: u8) -> impl Iterator<Item = At<'t>> {
        let end = if self.begins_with(with) { self.node().after as usize } else { 0 };
        let mut index = self.index + 1;
        std::iter::from_fn(move || {
            let at = (index < end).then_some(At { tape: self.tape, index })?;
            index = at.node().after as usize;
            Some(at)
        })
    }

    /// The elements of a list.
    pub(super) fn elements(self) -> impl Iterator<Item = At<'t>> {
        self.below(b'[')
    }

    /// Keys and values of an object.
    pub(super) fn members(self) -> impl Iterator<Item = (At<'t>, At<'t>)> {
        let mut below = self.below(b'{');
        std::iter::from_fn(move || Some((below.next()?, below.next()?)))
    }

    /// A member of an object, unless it is null.
    pub(super) fn get(self, name: &str) -> Option<Self> {
        self.members().find(|(key, _)| *key.text() == *name.as_bytes())?.1.given()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_where_they_stand() {
        let json = br#"{ "a" : [1, -2.5e1, "x\"y" ,[ ], {}], "metadata":{"managedFields":[{"fieldsV1":{"f:a\"}":{"[":{}}},"manager":"m"}]}, "n":null,"t" : true}"#;
        let mut scratch = Scratch::default();
        for length in [json.len(), 5, json.len()] {
            assert_eq!(Tape::read(&json[..length], &mut scratch).is_some(), length > 5);
        }
        assert_eq!(scratch.known, [br#"{"f:a\"}":{"[":{}}}"#], "known from the first reading");
        let tape = Tape::read(json, &mut scratch).unwrap();
        let root = tape.root();
        let elements: Vec<&[u8]> = root.get("a").unwrap().elements().map(At::raw).collect();
        assert_eq!(elements, [&b"1"[..], b"-2.5e1", br#""x\"y""#, b"[ ]", b"{}"]);
        assert_eq!(root.get("a").unwrap().elements().nth(2).unwrap().text().as_ref(), b"x\"y");
        let owner = root.get("metadata").unwrap().get("managedFields").unwrap().elements().next().unwrap();
        assert_eq!(owner.get("fieldsV1").unwrap().raw(), br#"{"f:a\"}":{"[":{}}}"#);
        assert_eq!(owner.get("manager").unwrap().text().as_ref(), b"m");
        assert!(root.get("n").is_none() && root.get("b").is_none());
        assert_eq!(root.get("t").unwrap().raw(), b"true");
        assert_eq!(root.members().count(), 4);
    }

    #[test]
    fn what_is_no_json_ends_reading() {
        for end in 0..30 {
            let whole = br#"{"a":[{"b":"c\n"},2],"d":true}"#;
            assert!(Tape::read(&whole[..end], &mut Scratch::default()).is_none(), "{end}");
        }
        assert!(Tape::read(&[b'['; 500], &mut Scratch::default()).is_none());
        assert!(Tape::read(b"\"\xff\"", &mut Scratch::default()).is_none());
    }
}
