//! The judge file: safetensors, with everything but the numbers as JSON in its metadata.
//!
//! | tensor | shape | of |
//! |---|---|---|
//! | `w`, `b` | [F], [1] | a linear judge |
//! | `w1`, `b1`, `w2`, `b2` | [width, F], [width], [width], [1] | a two-layer judge |
//! | `curve` | [points, 4]: theta, precision, recall, harmful rescues per answer | both, where validated |
//!
//! All are float32. The metadata has one key, `gavel_judge`, so that equal judges are equal
//! files; its value is a JSON object with the fields of [`Description`].

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::{
    CurvePoint, Features, Head, Judge, JudgeError, Layout, MAX_WIDTH, Meaning, OperatingPoint,
    OperatingPoints,
};
use crate::model::ModelError;
use crate::model::checkpoint::Header;
use crate::output::write_atomically;

const KEY: &str = "gavel_judge";
const VERSION: u32 = 1;

/// Larger than any judge: what is longer is some other file.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// What the metadata says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    version: u32,
    kind: Kind,
    meaning: Meaning,
    features: Features,
    vocab_size: usize,
    target_fingerprint: String,
    draft_fingerprint: Option<String>,
    method: String,
    provenance: String,
    operating_points: Option<OperatingPoints>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Linear,
    TwoLayer,
}

/// Where a part of a judge was found wrong; the caller says in which file.
pub(super) struct Wrong {
    what: String,
    found: String,
    expected: String,
}

impl Wrong {
    fn new(what: &str, found: impl ToString, expected: impl ToString) -> Wrong {
        Wrong {
            what: what.to_owned(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    fn in_file(self, path: &Path) -> JudgeError {
        JudgeError::Content {
            path: path.to_owned(),
            what: self.what,
            found: self.found,
            expected: self.expected,
        }
    }
}

impl From<Wrong> for JudgeError {
    fn from(wrong: Wrong) -> JudgeError {
        JudgeError::Invalid {
            what: wrong.what,
            found: wrong.found,
            expected: wrong.expected,
        }
    }
}

impl Judge {
    /// Reads and checks a judge file.
    pub fn read(path: &Path) -> Result<Judge, JudgeError> {
        let fail = |source| ModelError::read(path, source);
        let metadata = std::fs::metadata(path).map_err(fail)?;
        if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
            return Err(Wrong::new(
                "file",
                match metadata.is_file() {
                    true => format!("{} bytes", metadata.len()),
                    false => "no file".to_owned(),
                },
                format!("a judge file of at most {MAX_FILE_BYTES} bytes"),
            )
            .in_file(path));
        }
        Judge::parse(&std::fs::read(path).map_err(fail)?, path)
    }

    /// Checks the bytes of a judge file; errors name `path`.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Judge, JudgeError> {
        let header = Header::parse(bytes, path)?;
        let judge = from_header(&header, bytes).map_err(|wrong| wrong.in_file(path))?;
        judge.check_parts().map_err(|wrong| wrong.in_file(path))?;
        Ok(judge)
    }

    /// Writes the judge file whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), JudgeError> {
        let bytes = self.to_bytes()?;
        Ok(write_atomically(path, |file| file.write_all(&bytes))?)
    }

    /// The bytes of the judge file; equal judges give equal bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, JudgeError> {
        self.check_parts()?;
        let features = self.features.len();
        let description = Description {
            version: VERSION,
            kind: match self.head {
                Head::Linear { .. } => Kind::Linear,
                Head::TwoLayer { .. } => Kind::TwoLayer,
            },
            meaning: self.meaning,
            features: self.features.clone(),
            vocab_size: self.vocab_size,
            target_fingerprint: self.target_fingerprint.clone(),
            draft_fingerprint: self.draft_fingerprint.clone(),
            method: self.method.clone(),
            provenance: self.provenance.clone(),
            operating_points: self.operating_points,
        };
        let description = serde_json::to_string(&description)
            .map_err(|e| Wrong::new("description", e, "text for JSON"))?;
        let curve: Vec<f32> = self
            .curve
            .iter()
            .flat_map(|p| [p.theta, p.precision, p.recall, p.harmful_per_answer])
            .collect();
        let mut parts: Vec<(&str, Vec<usize>, &[f32])> = match &self.head {
            Head::Linear { w, b } => vec![
                ("w", vec![features], w),
                ("b", vec![1], std::slice::from_ref(b)),
            ],
            Head::TwoLayer { w1, b1, w2, b2 } => vec![
                ("w1", vec![w2.len(), features], w1),
                ("b1", vec![w2.len()], b1),
                ("w2", vec![w2.len()], w2),
                ("b2", vec![1], std::slice::from_ref(b2)),
            ],
        };
        if !curve.is_empty() {
            parts.push(("curve", vec![self.curve.len(), 4], &curve));
        }
        let data: Vec<(&str, Vec<usize>, Vec<u8>)> = parts
            .into_iter()
            .map(|(name, shape, values)| {
                let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                (name, shape, bytes)
            })
            .collect();
        let views = data
            .iter()
            .map(|(name, shape, bytes)| {
                Ok((*name, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
        let metadata = HashMap::from([(KEY.to_owned(), description)]);
        views
            .and_then(|views| safetensors::serialize(views, Some(metadata)))
            .map_err(|e| Wrong::new("tensors", e, "tensors for safetensors").into())
    }

    pub(super) fn validate(&self) -> Result<(), JudgeError> {
        Ok(self.check_parts()?)
    }

    /// Sizes agree, every number is finite and in its range.
    fn check_parts(&self) -> Result<(), Wrong> {
        let Features {
            layout,
            taps,
            target_width,
            draft_width,
        } = &self.features;
        let twice = (1..taps.len()).any(|i| taps[..i].contains(&taps[i]));
        if taps.is_empty() || twice {
            let taps: Vec<String> = taps.iter().take(20).map(|t| t.to_string()).collect();
            return Err(Wrong::new(
                "taps",
                format!("[{}]", taps.join(", ")),
                "at least one, none twice",
            ));
        }
        // Far above any model, and such that no product of sizes overflows.
        const MAX: usize = 1 << 17;
        if taps.len() > 1024 || *target_width == 0 || *target_width > MAX || *draft_width > MAX {
            return Err(Wrong::new(
                "features",
                format!(
                    "{} taps, target width {target_width}, draft width {draft_width}",
                    taps.len()
                ),
                format!("up to 1024 taps of widths up to {MAX}, the target's at least 1"),
            ));
        }
        match (layout, draft_width) {
            (Layout::Dt, 0) | (Layout::DdDt, 1..) => {}
            _ => {
                return Err(Wrong::new(
                    "draft width",
                    format!("{draft_width} with layout {layout}"),
                    "0 with DT, at least 1 with DD-DT",
                ));
            }
        }
        if self.vocab_size == 0 {
            return Err(Wrong::new("vocab_size", 0, "at least 1"));
        }
        if self.target_fingerprint.is_empty() {
            return Err(Wrong::new("target_fingerprint", "nothing", "a fingerprint"));
        }
        self.head.check(self.features.len())?;
        let points = self
            .operating_points
            .iter()
            .flat_map(|p| [("f1", p.f1), ("r90", p.r90), ("mid", p.mid)]);
        for (name, point) in points {
            check_point(&format!("operating point {name}"), &point)?;
        }
        for (i, point) in self.curve.iter().enumerate() {
            check_point(&format!("curve, point {i}"), point)?;
        }
        if let Some(i) =
            (1..self.curve.len()).find(|&i| self.curve[i].theta < self.curve[i - 1].theta)
        {
            return Err(Wrong::new(
                &format!("curve, point {i}"),
                format!(
                    "theta {} after {}",
                    self.curve[i].theta,
                    self.curve[i - 1].theta
                ),
                "ascending thresholds",
            ));
        }
        Ok(())
    }
}

impl Head {
    fn check(&self, features: usize) -> Result<(), Wrong> {
        let parts: Vec<(&str, &[f32], usize)> = match self {
            Head::Linear { w, b } => vec![("w", w, features), ("b", std::slice::from_ref(b), 1)],
            Head::TwoLayer { w1, b1, w2, b2 } => {
                let width = w2.len();
                if !(1..=MAX_WIDTH).contains(&width) {
                    return Err(Wrong::new(
                        "w2",
                        format!("width {width}"),
                        format!("a width from 1 to {MAX_WIDTH}"),
                    ));
                }
                vec![
                    ("w1", w1, features.saturating_mul(width)),
                    ("b1", b1, width),
                    ("w2", w2, width),
                    ("b2", std::slice::from_ref(b2), 1),
                ]
            }
        };
        for (name, values, length) in parts {
            if values.len() != length {
                return Err(Wrong::new(
                    name,
                    format!("{} values", values.len()),
                    format!("{length}, as the features ask for"),
                ));
            }
            if let Some(at) = values.iter().position(|x| !x.is_finite()) {
                return Err(Wrong::new(
                    name,
                    format!("{} at {at}", values[at]),
                    "finite numbers",
                ));
            }
        }
        Ok(())
    }
}

fn check_point(what: &str, point: &OperatingPoint) -> Result<(), Wrong> {
    let share = 0.0..=1.0;
    let shares = [point.theta, point.precision, point.recall];
    let harmful = point.harmful_per_answer;
    match shares.iter().all(|x| share.contains(x)) && harmful >= 0.0 && harmful.is_finite() {
        true => Ok(()),
        false => Err(Wrong::new(
            what,
            format!("{point:?}"),
            "theta, precision and recall from 0 to 1, harmful_per_answer at least 0",
        )),
    }
}

fn from_header(header: &Header, bytes: &[u8]) -> Result<Judge, Wrong> {
    let Some(text) = header.metadata.get(KEY) else {
        return Err(Wrong::new(
            "metadata",
            format!("no key '{KEY}'"),
            "a judge file as gavel writes it",
        ));
    };
    // The version first: other versions have other fields.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let json = |e: serde_json::Error| Wrong::new(KEY, e, "a description of a judge in JSON");
    let Versioned { version } = serde_json::from_str(text).map_err(json)?;
    if version != VERSION {
        return Err(Wrong::new("version", version, VERSION));
    }
    let description: Description = serde_json::from_str(text).map_err(json)?;
    let tensor = |name: &str, rank: usize| {
        let Some(entry) = header.tensors.get(name) else {
            return Err(Wrong::new(name, "no such tensor", "a tensor"));
        };
        if entry.dtype != Dtype::F32 || entry.shape.len() != rank {
            return Err(Wrong::new(
                name,
                format!("{:?} {:?}", entry.dtype, entry.shape),
                format!("F32 with {rank} dimensions"),
            ));
        }
        let (quads, _) = bytes[entry.range.clone()].as_chunks::<4>();
        let values: Vec<f32> = quads.iter().map(|&b| f32::from_le_bytes(b)).collect();
        Ok((entry.shape.clone(), values))
    };
    let vector = |name| tensor(name, 1).map(|(_, values)| values);
    let number = |name| match *vector(name)? {
        [x] => Ok(x),
        ref values => Err(Wrong::new(name, format!("{} values", values.len()), 1)),
    };
    let head = match description.kind {
        Kind::Linear => Head::Linear {
            w: vector("w")?,
            b: number("b")?,
        },
        Kind::TwoLayer => {
            let ((shape, w1), w2) = (tensor("w1", 2)?, vector("w2")?);
            let expected = [w2.len(), description.features.len()];
            if shape != expected {
                return Err(Wrong::new(
                    "w1",
                    format!("{shape:?}"),
                    format!("{expected:?}"),
                ));
            }
            Head::TwoLayer {
                w1,
                b1: vector("b1")?,
                w2,
                b2: number("b2")?,
            }
        }
    };
    let curve = match header.tensors.contains_key("curve") {
        false => Vec::new(),
        true => {
            let (shape, values) = tensor("curve", 2)?;
            if shape[1] != 4 {
                return Err(Wrong::new("curve", format!("{shape:?}"), "[points, 4]"));
            }
            let (points, _) = values.as_chunks::<4>();
            points
                .iter()
                .map(
                    |&[theta, precision, recall, harmful_per_answer]| CurvePoint {
                        theta,
                        precision,
                        recall,
                        harmful_per_answer,
                    },
                )
                .collect()
        }
    };
    Ok(Judge {
        head,
        meaning: description.meaning,
        features: description.features,
        vocab_size: description.vocab_size,
        target_fingerprint: description.target_fingerprint,
        draft_fingerprint: description.draft_fingerprint,
        method: description.method,
        provenance: description.provenance,
        operating_points: description.operating_points,
        curve,
    })
}
