//! The docker-archive form: `manifest.json`, a config and one layer. Reproducible: equal input gives equal bytes
//! (entries sorted, times zero, owner root).

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::ImageError;

/// What goes into the image.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file at a path of the image, executable.
    File {
        /// On this machine.
        from: PathBuf,
        /// In the image, without the leading slash.
        to: String,
    },
    /// A symbolic link.
    Link {
        /// In the image, without the leading slash.
        at: String,
        /// What it points to.
        target: String,
    },
    /// A directory's whole content.
    Tree(PathBuf),
}

/// An image to be packed.
#[derive(Clone, Debug)]
pub struct Image {
    /// Name with tag.
    pub tag: String,
    /// Content; later sources win.
    pub sources: Vec<Source>,
    /// Program and arguments.
    pub entrypoint: Vec<String>,
}

enum Entry {
    File(PathBuf, u32),
    Link(String),
    Dir,
}

/// The archive's bytes.
///
/// # Errors
/// An unreadable source, a bad tag, or a single dynamically linked program.
pub fn pack(image: &Image) -> Result<Vec<u8>, ImageError> {
    if !image.tag.rsplit('/').next().is_some_and(|last| last.contains(':')) {
        return Err(ImageError::Tag(image.tag.clone()));
    }
    let layer = layer(image)?;
    let failed = |source| ImageError::Archive { tag: image.tag.clone(), source };
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": image.entrypoint, "Env": ["PATH=/usr/local/bin:/usr/bin:/bin:/sbin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex::encode(Sha256::digest(&layer)))]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [image.tag], "Layers": ["layer.tar"]}]);
    let mut out = tar::Builder::new(Vec::with_capacity(layer.len() + 8192));
    for (name, bytes) in [
        ("config.json", config.to_string().into_bytes()),
        ("layer.tar", layer),
        ("manifest.json", manifest.to_string().into_bytes()),
    ] {
        let mut header = header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
        out.append_data(&mut header, name, bytes.as_slice()).map_err(failed)?;
    }
    out.into_inner().map_err(failed)
}

fn header(ty: tar::EntryType, mode: u32, size_bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(ty);
    header.set_mode(mode);
    header.set_size(size_bytes);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn layer(image: &Image) -> Result<Vec<u8>, ImageError> {
    let mut entries = BTreeMap::new();
    for source in &image.sources {
        collect(source, &mut entries)?;
    }
    let failed = |source| ImageError::Archive { tag: image.tag.clone(), source };
    let mut out = tar::Builder::new(Vec::new());
    for (name, entry) in &entries {
        match entry {
            Entry::Dir => out.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), name, std::io::empty()),
            Entry::Link(target) => out.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), name, target),
            Entry::File(from, mode) => {
                let bytes = read(from)?;
                let mut header = header(tar::EntryType::Regular, *mode, bytes.len() as u64);
                out.append_data(&mut header, name, bytes.as_slice())
            }
        }
        .map_err(failed)?;
    }
    out.into_inner().map_err(failed)
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    std::fs::read(path).map_err(|source| ImageError::Read { path: path.display().to_string(), source })
}

fn collect(source: &Source, entries: &mut BTreeMap<String, Entry>) -> Result<(), ImageError> {
    match source {
        Source::File { from, to } => {
            parents(to, entries);
            entries.insert(to.clone(), Entry::File(from.clone(), 0o755));
        }
        Source::Link { at, target } => {
            parents(at, entries);
            entries.insert(at.clone(), Entry::Link(target.clone()));
        }
        Source::Tree(root) => walk(root, root, entries)?,
    }
    Ok(())
}

fn parents(name: &str, entries: &mut BTreeMap<String, Entry>) {
    for (at, _) in name.match_indices('/') {
        entries.entry(name[..at].to_owned()).or_insert(Entry::Dir);
    }
}

fn walk(root: &Path, dir: &Path, entries: &mut BTreeMap<String, Entry>) -> Result<(), ImageError> {
    let failed = |source| ImageError::Read { path: dir.display().to_string(), source };
    for item in std::fs::read_dir(dir).map_err(failed)? {
        let path = item.map_err(failed)?.path();
        let meta = std::fs::symlink_metadata(&path).map_err(failed)?;
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        if meta.is_dir() {
            entries.insert(name, Entry::Dir);
            walk(root, &path, entries)?;
        } else if meta.is_symlink() {
            let target = std::fs::read_link(&path).map_err(failed)?;
            entries.insert(name, Entry::Link(target.to_string_lossy().into_owned()));
        } else {
            entries.insert(name, Entry::File(path, meta.permissions().mode() & 0o7777));
        }
    }
    Ok(())
}

impl Image {
    /// The image of a path: a directory becomes the root, a static binary the only file and the entry point.
    ///
    /// # Errors
    /// An unreadable path, or a binary that needs a dynamic loader.
    pub fn of_path(tag: &str, path: &Path, entrypoint: &[String]) -> Result<Self, ImageError> {
        if path.is_dir() {
            let sources = vec![Source::Tree(path.to_owned())];
            return Ok(Self { tag: tag.to_owned(), sources, entrypoint: entrypoint.to_vec() });
        }
        if needs_loader(&read(path)?) {
            return Err(ImageError::Dynamic(path.display().to_string()));
        }
        let name = path.file_name().map_or_else(|| "app".to_owned(), |n| n.to_string_lossy().into_owned());
        let entrypoint = if entrypoint.is_empty() { vec![format!("/{name}")] } else { entrypoint.to_vec() };
        let sources = vec![Source::File { from: path.to_owned(), to: name }];
        Ok(Self { tag: tag.to_owned(), sources, entrypoint })
    }
}

/// Whether an ELF file has a PT_INTERP program header; anything else (a script) does not count as one.
fn needs_loader(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let word = |at: usize, n: usize| {
        elf.get(at..at.saturating_add(n))
            .map_or(0, |b| b.iter().rev().fold(0u64, |all, byte| all << 8 | u64::from(*byte)))
    };
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return false;
    }
    let (table, entry_bytes, count) = (word(32, 8), word(54, 2), word(56, 2));
    (0..count).any(|i| {
        let at = usize::try_from(table.saturating_add(i * entry_bytes)).unwrap_or(usize::MAX - 8);
        word(at, 4) == u64::from(PT_INTERP)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut out = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            out.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        out
    }

    #[test]
    fn a_directory_becomes_a_reproducible_archive() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        std::fs::write(dir.path().join("bin/app"), "#!/bin/sh\n").unwrap();
        std::os::unix::fs::symlink("app", dir.path().join("bin/other")).unwrap();
        let image = Image::of_path("a/b:v1", dir.path(), &["/bin/app".to_owned()]).unwrap();
        let bytes = pack(&image).unwrap();
        assert_eq!(bytes, pack(&image).unwrap());
        let top = files(&bytes);
        let layer = files(&top["layer.tar"]);
        assert_eq!(layer.keys().collect::<Vec<_>>(), ["bin", "bin/app", "bin/other"]);
        let config: serde_json::Value = serde_json::from_slice(&top["config.json"]).unwrap();
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/app"]));
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&top["layer.tar"])));
        assert_eq!(config["rootfs"]["diff_ids"][0], digest);
    }

    #[test]
    fn untagged_and_dynamic_are_refused() {
        let image = Image { tag: "host:5000/web".to_owned(), sources: vec![], entrypoint: vec![] };
        assert!(matches!(pack(&image), Err(ImageError::Tag(_))));
        let this = std::env::current_exe().unwrap();
        assert!(matches!(Image::of_path("a:v1", &this, &[]), Err(ImageError::Dynamic(_))));
        for n in 0..70 {
            let mut half = b"\x7fELF\x02\x01".to_vec();
            half.resize(n.max(6), 0xff);
            needs_loader(&half);
        }
    }
}
