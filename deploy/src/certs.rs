//! `hardway certs`: every certificate of a directory with its end date in words.

use std::path::Path;

use jiff::Timestamp;

/// One line per certificate below `dir`, sorted by path; unreadable ones say why.
pub fn report(dir: &Path, now: Timestamp) -> Vec<String> {
    let mut files = Vec::new();
    collect(dir, &mut files);
    files.sort();
    files
        .iter()
        .map(|path| {
            let name = path.strip_prefix(dir).unwrap_or(path).display().to_string();
            let info = std::fs::read(path)
                .map_err(|e| e.to_string())
                .and_then(|pem| pki::inspect::certificate(&pem, &name).map_err(|e| e.to_string()));
            match info {
                Ok(info) => {
                    let role = if info.is_ca { "authority" } else { "for" };
                    format!("{name:<36} {role} {:<44} {}", info.subject.common_name, info.end_in_words(now))
                }
                Err(why) => format!("{name:<36} {why}"),
            }
        })
        .collect()
}

fn collect(dir: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "crt") {
            files.push(path);
        }
    }
}
