//! Environment files: variables that a container of the pod wrote to an emptyDir for a later one.
//!
//! The format is upstream's strict subset of shell: `NAME='value'`, values in single quotes (over several lines where
//! wanted), comments and blank lines. Pure.

/// The value of a key; none when no line defines it.
///
/// # Errors
/// The line that is not of the format.
pub fn value(text: &str, key: &str) -> Result<Option<String>, String> {
    let mut rest = text;
    while !rest.is_empty() {
        let (line, next) = rest.split_once('\n').unwrap_or((rest, ""));
        let content = line.trim_start_matches([' ', '\t']);
        if content.trim_end_matches('\r').is_empty() || content.starts_with('#') {
            rest = next;
            continue;
        }
        let bad = |why: &str| format!("invalid environment variable format: {why}: {content:?}");
        let (name, value) = content.split_once('=').ok_or_else(|| bad("missing '='"))?;
        if name.is_empty() || name.ends_with([' ', '\t']) {
            return Err(bad("whitespace before '=', or no name"));
        }
        if value.starts_with([' ', '\t']) {
            // As in a shell, this is an empty assignment.
            if name == key {
                return Ok(None);
            }
            rest = next;
            continue;
        }
        // The value may go on over the next lines.
        let start = rest.len() - next.len() - usize::from(rest.len() > line.len()) - value.len();
        let quoted = rest[start..].strip_prefix('\'').ok_or_else(|| bad("value must be enclosed in single quotes"))?;
        let (value, after) = quoted.split_once('\'').ok_or_else(|| bad("unclosed single quote"))?;
        let (trailing, next) = after.split_once('\n').unwrap_or((after, ""));
        let trailing = trailing.trim();
        if !trailing.is_empty() && !trailing.starts_with('#') {
            return Err(bad("unexpected content after closing quote"));
        }
        if name == key {
            return Ok(Some(value.to_owned()).filter(|v| !v.is_empty()));
        }
        rest = next;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn format() {
        let text = "# c\n\n  A='1' # x\nB='two\nlines'\nC= 'no'\nD='$A'\n";
        let get = |key: &str| value(text, key).unwrap();
        assert_eq!(get("A").as_deref(), Some("1"));
        assert_eq!(get("B").as_deref(), Some("two\nlines"));
        assert_eq!((get("C"), get("D"), get("E")), (None, Some("$A".into()), None));
        for bad in ["A", "A =\'1\'", "A=1", "A='1", "A='1' x", "='1'"] {
            assert!(value(bad, "Z").is_err(), "{bad}");
        }
    }
}
