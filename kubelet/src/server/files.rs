//! `/logs/`: the files below /var/log, for operators who may see them.

use std::io::Read;
use std::path::{Component, Path};

use component_base::serving::{Body, full};
use http::{Response, StatusCode};

use super::Refusal;
use crate::beneath;

const ROOT: &str = "/var/log";
/// Most bytes of a file that are served.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// A directory's names or a file's text.
pub fn answer(segments: &[&str]) -> Result<Response<Body>, Refusal> {
    let relative = segments.join("/");
    if !Path::new(&relative).components().all(|c| matches!(c, Component::Normal(_))) {
        return Err(Refusal(StatusCode::BAD_REQUEST, "invalid path\n".into()));
    }
    let missing = |_| Refusal(StatusCode::NOT_FOUND, "404 page not found\n".into());
    let root = Path::new(ROOT).canonicalize().map_err(missing)?;
    let path = root.join(&relative).canonicalize().map_err(missing)?;
    if !path.starts_with(&root) {
        return Err(Refusal(StatusCode::FORBIDDEN, "the path leaves the log directory\n".into()));
    }
    if path.is_dir() {
        let entries = std::fs::read_dir(&path).map_err(missing)?.flatten();
        let line = |e: std::fs::DirEntry| {
            let slash = if e.path().is_dir() { "/" } else { "" };
            let name = format!("{}{slash}", e.file_name().to_string_lossy());
            format!("<a href=\"{name}\">{name}</a>\n")
        };
        let mut lines: Vec<String> = entries.map(line).collect();
        lines.sort();
        return Ok(Response::new(full(format!("<pre>\n{}</pre>\n", lines.concat()))));
    }
    let mut bytes = Vec::new();
    // The path has no links by now; one that is put there meanwhile does not lead out.
    let file = beneath::file(&root, &path).map_err(missing)?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(missing)?;
    Ok(Response::new(full(bytes)))
}
