//! What can be wrong with a model on disk.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be opened: what was found, what was expected, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The operating system would not let us read a file or directory.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// File or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A file or directory as a whole is not what it should be.
    #[error("{}: found {found}, expected {expected}", path.display())]
    File {
        /// File or directory.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What belongs there.
        expected: String,
    },
    /// A field of a JSON file is absent, absurd or not supported.
    #[error("{}: field '{field}': found {found}, expected {expected}", path.display())]
    Field {
        /// The JSON file.
        path: PathBuf,
        /// The field, nested ones with dots.
        field: String,
        /// Its value.
        found: String,
        /// What is supported.
        expected: String,
    },
    /// A tensor is absent, misshapen or of a type that is not supported.
    #[error("{}: tensor '{tensor}': found {found}, expected {expected}", path.display())]
    Tensor {
        /// The weight file or its index.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// What the file says of it.
        found: String,
        /// What the configuration asks for.
        expected: String,
    },
    /// A model was to be cut to a number of layers that it does not have.
    #[error("{}: cannot be cut to {asked} layers, expected 1 to {layers}", dir.display())]
    Layers {
        /// The model's directory.
        dir: PathBuf,
        /// Layers asked for.
        asked: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// A name is neither a directory nor a Hub id.
    #[error("model '{name}': no such directory, expected a directory or a Hub id such as org/name")]
    Name {
        /// The name as it was given.
        name: String,
    },
    /// A model could not be had from the Hub or its cache.
    #[error("model '{name}' at {endpoint} (cache {}): {why}", cache.display())]
    Hub {
        /// Hub id.
        name: String,
        /// Address of the Hub.
        endpoint: String,
        /// Folder of the local cache.
        cache: PathBuf,
        /// What went wrong, and what may help.
        why: String,
    },
}

impl ModelError {
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        ModelError::Read {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn file(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> Self {
        ModelError::File {
            path: path.to_owned(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    pub(crate) fn tensor(
        path: &Path,
        tensor: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        ModelError::Tensor {
            path: path.to_owned(),
            tensor: tensor.to_owned(),
            found: found.into(),
            expected: expected.into(),
        }
    }
}

/// Reads a text file that a model directory should hold.
pub(crate) fn read_text(path: &Path) -> Result<String, ModelError> {
    let bytes = std::fs::read(path).map_err(|source| ModelError::read(path, source))?;
    String::from_utf8(bytes).map_err(|e| {
        ModelError::file(
            path,
            format!(
                "a byte that is not UTF-8 at {}",
                e.utf8_error().valid_up_to()
            ),
            "UTF-8 text",
        )
    })
}
