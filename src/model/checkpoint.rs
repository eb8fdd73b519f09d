//! Weight files: safetensors headers checked to the last byte, shards, mapping.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::tensor::TensorInfo;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::error::{ModelError, read_text};
use super::json::{clip, parse_object};
use super::tensor::{Dtype, Tensor};

/// The longest header that the format allows, in bytes.
const MAX_HEADER_BYTES: usize = 100_000_000;

/// A weight file in memory, mapped read-only.
pub(super) struct Mapping {
    path: PathBuf,
    bytes: Mmap,
}

impl Mapping {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn open(path: &Path) -> Result<Arc<Mapping>, ModelError> {
        let fail = |source| ModelError::read(path, source);
        // Asked before opening: opening a named pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(fail)?;
        if !metadata.is_file() {
            return Err(ModelError::file(
                path,
                "something that is no file",
                "a safetensors file",
            ));
        }
        let file = File::open(path).map_err(fail)?;
        // SAFETY: the mapping is private and read-only and nothing in this
        // process writes to it; `Mmap` unmaps it when the last tensor is gone.
        // What cannot be ruled out is that another process changes the file
        // meanwhile: weights are written once and then replaced, not edited,
        // and tensors are read as numbers of which every bit pattern is valid.
        let bytes = unsafe { Mmap::map(&file) }.map_err(fail)?;
        Ok(Arc::new(Mapping {
            path: path.to_owned(),
            bytes,
        }))
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.path.display(), self.bytes.len())
    }
}

/// What a safetensors header says of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Element type.
    pub dtype: safetensors::Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// Where its data stands in the file.
    pub range: Range<usize>,
}

/// A checked safetensors header.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// The free-form strings of `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, Entry>,
}

impl Header {
    /// Reads the header of a whole safetensors file; errors name `path`.
    ///
    /// Beyond what the crate `safetensors` checks, no name may stand twice, no
    /// sum of lengths overflows, and errors name the tensor and both figures.
    pub fn parse(file: &[u8], path: &Path) -> Result<Header, ModelError> {
        let wrong = |found: String, expected: &str| ModelError::file(path, found, expected);
        let Some((length, rest)) = file.split_first_chunk::<8>() else {
            return Err(wrong(
                format!("a file of {} bytes", file.len()),
                "safetensors, which begins with 8 bytes of header length",
            ));
        };
        let length = u64::from_le_bytes(*length);
        let length = match usize::try_from(length) {
            Ok(length) if length <= MAX_HEADER_BYTES && length <= rest.len() => length,
            _ => {
                return Err(wrong(
                    format!(
                        "a header length of {length} bytes in a file of {}",
                        file.len()
                    ),
                    "safetensors, whose header fits the file and is at most 100,000,000 bytes long",
                ));
            }
        };
        let (header, data) = rest.split_at(length);
        let text = std::str::from_utf8(header).map_err(|e| {
            wrong(
                format!(
                    "a header with a byte that is not UTF-8 at {}",
                    e.valid_up_to()
                ),
                "a safetensors header in JSON",
            )
        })?;
        let raw: RawHeader = serde_json::from_str(text).map_err(|e| {
            wrong(
                format!("an invalid header ({e})"),
                "a safetensors header in JSON",
            )
        })?;
        check_layout(&raw, data.len(), path)?;
        let data_start = 8 + length;
        Ok(Header {
            metadata: raw.metadata,
            tensors: raw
                .tensors
                .into_iter()
                .map(|(name, info)| {
                    let (begin, end) = info.data_offsets;
                    let entry = Entry {
                        dtype: info.dtype,
                        shape: info.shape,
                        range: data_start + begin..data_start + end,
                    };
                    (name, entry)
                })
                .collect(),
        })
    }
}

/// Every tensor inside the data and as long as its shape says; together they cover the data once.
fn check_layout(raw: &RawHeader, data_bytes: usize, path: &Path) -> Result<(), ModelError> {
    let mut spans = Vec::with_capacity(raw.tensors.len());
    for (name, info) in &raw.tensors {
        let (begin, end) = info.data_offsets;
        if begin > end || end > data_bytes {
            return Err(ModelError::tensor(
                path,
                &clip(name),
                format!("data at bytes {begin}..{end}"),
                format!(
                    "a range within the {data_bytes} bytes of data that the file holds (is it cut short?)"
                ),
            ));
        }
        let bits = info
            .shape
            .iter()
            .try_fold(info.dtype.bitsize(), |bits, &n| bits.checked_mul(n));
        let same = bits.is_some_and(|bits| bits % 8 == 0 && bits / 8 == end - begin);
        if !same {
            return Err(ModelError::tensor(
                path,
                &clip(name),
                format!("{} bytes of data", end - begin),
                match bits {
                    Some(bits) => format!(
                        "{} bytes for {:?} {:?}",
                        bits.div_ceil(8),
                        info.dtype,
                        info.shape
                    ),
                    None => format!("a shape that fits memory, not {:?}", info.shape),
                },
            ));
        }
        spans.push((begin, end, name));
    }
    spans.sort_unstable();
    let mut covered = 0;
    for (begin, end, name) in spans {
        if begin != covered {
            return Err(ModelError::tensor(
                path,
                &clip(name),
                format!("data from byte {begin}"),
                format!(
                    "data from byte {covered}, where the tensor before it ends (tensors neither overlap nor leave holes)"
                ),
            ));
        }
        covered = end;
    }
    if covered != data_bytes {
        return Err(ModelError::file(
            path,
            format!("{data_bytes} bytes of data"),
            format!("{covered}, where the last tensor ends"),
        ));
    }
    Ok(())
}

#[derive(Default)]
struct RawHeader {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawHeaderVisitor)
    }
}

struct RawHeaderVisitor;

impl<'de> Visitor<'de> for RawHeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader::default();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let within = |e| de::Error::custom(format!("'{}': {e}", clip(&name)));
            if name == "__metadata__" {
                header.metadata = map.next_value::<UniqueStrings>().map_err(within)?.0;
            } else {
                let info = map.next_value().map_err(within)?;
                header.tensors.insert(name.clone(), info);
            }
            if let Some(twice) = names.replace(name) {
                return Err(de::Error::custom(format!(
                    "'{}' stands twice",
                    clip(&twice)
                )));
            }
        }
        Ok(header)
    }
}

/// An object of strings without a key twice.
struct UniqueStrings(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueStrings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = UniqueStrings;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueStrings, A::Error> {
                let mut strings = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if strings.contains_key(&key) {
                        return Err(de::Error::custom(format!("'{}' stands twice", clip(&key))));
                    }
                    strings.insert(key, value);
                }
                Ok(UniqueStrings(strings))
            }
        }
        deserializer.deserialize_map(Strings)
    }
}

/// Parses `model.safetensors.index.json` into tensor -> shard, a plain file name each.
pub fn parse_index(text: &str, path: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    let object = parse_object(text, path)?;
    let Some(Value::Object(map)) = object.get("weight_map") else {
        return Err(ModelError::file(
            path,
            "no 'weight_map'",
            "an object 'weight_map' from tensor to file",
        ));
    };
    map.iter()
        .map(|(tensor, file)| match file {
            Value::String(file) if is_plain_file_name(file) => Ok((tensor.clone(), file.clone())),
            other => Err(ModelError::tensor(
                path,
                &clip(tensor),
                super::json::show(other),
                "the name of a file beside the index",
            )),
        })
        .collect()
}

fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty()
        && !matches!(name, "." | "..")
        && !name.contains(['/', '\\', ':'])
        && !name.chars().any(char::is_control)
}

/// The tensors of a model directory, mapped.
pub(super) struct Checkpoint {
    /// The one weight file, or the index: what an error about an absent tensor names.
    path: PathBuf,
    tensors: HashMap<String, (Entry, Arc<Mapping>)>,
}

impl Checkpoint {
    /// Maps `model.safetensors`, or the shards of `model.safetensors.index.json`.
    pub(super) fn open(dir: &Path) -> Result<Checkpoint, ModelError> {
        let single = dir.join("model.safetensors");
        if single.exists() {
            let (header, mapping) = open_file(&single)?;
            return Ok(Checkpoint {
                path: single,
                tensors: header
                    .tensors
                    .into_iter()
                    .map(|(name, entry)| (name, (entry, mapping.clone())))
                    .collect(),
            });
        }
        let index = dir.join("model.safetensors.index.json");
        if !index.exists() {
            return Err(ModelError::file(
                dir,
                other_weights(dir),
                "model.safetensors or model.safetensors.index.json",
            ));
        }
        let weight_map = parse_index(&read_text(&index)?, &index)?;
        let mut shards: BTreeMap<&str, (Header, Arc<Mapping>)> = BTreeMap::new();
        for (tensor, shard) in &weight_map {
            if !shards.contains_key(shard.as_str()) {
                let path = dir.join(shard);
                if !path.exists() {
                    return Err(ModelError::tensor(
                        &index,
                        &clip(tensor),
                        format!("no file {shard}"),
                        "every shard that the index names beside it",
                    ));
                }
                shards.insert(shard, open_file(&path)?);
            }
        }
        let mut tensors = HashMap::with_capacity(weight_map.len());
        for (tensor, shard) in &weight_map {
            let (header, mapping) = &shards[shard.as_str()];
            let entry = header.tensors.get(tensor).ok_or_else(|| {
                ModelError::tensor(
                    &dir.join(shard),
                    &clip(tensor),
                    "no such tensor",
                    "the tensor, which model.safetensors.index.json says is here",
                )
            })?;
            tensors.insert(tensor.clone(), (entry.clone(), mapping.clone()));
        }
        Ok(Checkpoint {
            path: index,
            tensors,
        })
    }

    /// The tensor `name`, which must have this shape and a type that gavel computes with.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let Some((entry, mapping)) = self.tensors.get(name) else {
            return Err(ModelError::tensor(
                &self.path,
                name,
                "no such tensor",
                format!("a tensor of shape {shape:?}"),
            ));
        };
        let wrong = |found, expected| ModelError::tensor(mapping.path(), name, found, expected);
        if entry.shape != shape {
            return Err(wrong(
                format!("shape {:?}", entry.shape),
                format!("shape {shape:?} (from config.json)"),
            ));
        }
        let dtype = Dtype::of(entry.dtype).ok_or_else(|| {
            wrong(
                format!("type {:?}", entry.dtype),
                "type BF16, F16 or F32".to_owned(),
            )
        })?;
        Ok(Tensor::new(name, dtype, entry.clone(), mapping.clone()))
    }

    /// A norm's gain or a bias, as float32.
    pub(super) fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, ModelError> {
        let tensor = self.tensor(name, &[length])?;
        let values = tensor.to_f32();
        match values.iter().position(|x| !x.is_finite()) {
            Some(at) => Err(ModelError::tensor(
                tensor.path(),
                name,
                format!("{} at {at}", values[at]),
                "finite numbers",
            )),
            None => Ok(values),
        }
    }
}

fn open_file(path: &Path) -> Result<(Header, Arc<Mapping>), ModelError> {
    let mapping = Mapping::open(path)?;
    Ok((Header::parse(mapping.bytes(), path)?, mapping))
}

/// What stands in a directory instead of safetensors.
fn other_weights(dir: &Path) -> String {
    let names = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut others: Vec<String> = names
        .filter(|name| {
            [".bin", ".gguf", ".pth", ".safetensors"]
                .iter()
                .any(|end| name.ends_with(end))
        })
        .collect();
    others.sort();
    match others.first() {
        Some(first) => format!("neither weights nor index, but {}", clip(first)),
        None => "no weights".to_owned(),
    }
}
