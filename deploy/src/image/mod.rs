//! Images without a registry: a directory or a static binary becomes an image archive that containerd imports.

mod archive;
mod import;

pub use archive::{Image, Source, pack};
pub use import::import;

/// What can go wrong while packing or importing.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The source cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// File or directory.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The archive cannot be put together.
    #[error("cannot write the archive of {tag}: {source}")]
    Archive {
        /// Image.
        tag: String,
        /// Why.
        source: std::io::Error,
    },
    /// The tag cannot name an image.
    #[error(
        "{0:?} is not an image name with a tag, like hardway/web:v1 (without a tag it would be `latest`, which is pulled at every start)"
    )]
    Tag(String),
    /// A program linked dynamically does not start in an image that holds nothing else.
    #[error(
        "{0} needs a dynamic loader, which an image of this one file does not have: link it statically, or pack a directory"
    )]
    Dynamic(String),
    /// containerd refused it.
    #[error("containerd does not take {tag}: {why}")]
    Import {
        /// Image.
        tag: String,
        /// What `ctr` said.
        why: String,
    },
}
