//! A judge beside a pass: products of its first matrix with the hidden states of every row.
//!
//! The products of a linear judge with the final hidden state ride with the last layer's down
//! projection: one vector of weights, no launch. Every other tap, and a two-layer judge, is a launch
//! of its own. Sums are scaled by the final norm and finished on the host.

use super::super::DeviceError;
use super::driver::Gpu;
use super::layout::MAX_ROWS;
use super::memory::Buffer;
use super::plan::MAX_PARTS;
use crate::judge::{Features, Head, Judge, Layout, MAX_WIDTH, Tap};
use crate::model::{Config, Model};
use std::sync::Arc;

/// Most places in the target that a judge may read: the final hidden state and one layer.
const TAPS: usize = 2;

/// Room for one judge, and which one is there.
pub struct JudgeRoom {
    /// f32 [tap, MAX_WIDTH, hidden]; those of the final hidden state times the gain of its norm
    weights: Buffer,
    /// f32 [tap, MAX_WIDTH, MAX_ROWS]
    products: Buffer,
    /// f32 [part, MAX_ROWS], of the last layer's down projection
    dots: Buffer,
    /// the kernel's bias, which the host adds: f32 [MAX_WIDTH]
    zeros: Buffer,
    judge: Option<Arc<Judge>>,
    hidden: usize,
}

/// Sizes of the buffers in bytes.
fn sizes(c: &Config) -> [usize; 4] {
    [
        4 * TAPS * MAX_WIDTH * c.hidden_size,
        4 * TAPS * MAX_WIDTH * MAX_ROWS,
        4 * MAX_PARTS * MAX_ROWS,
        4 * MAX_WIDTH,
    ]
}

/// What the room takes.
pub fn bytes(c: &Config) -> usize {
    sizes(c).into_iter().sum()
}

impl JudgeRoom {
    /// Allocates it.
    pub fn new(gpu: &Arc<Gpu>, c: &Config) -> Result<JudgeRoom, DeviceError> {
        let [weights, products, dots, zeros] = sizes(c);
        let new = |label, bytes| Buffer::zeroed(gpu, label, bytes);
        Ok(JudgeRoom {
            weights: new("judge weights", weights)?,
            products: new("judge products", products)?,
            dots: new("judge dots", dots)?,
            zeros: new("judge bias", zeros)?,
            judge: None,
            hidden: c.hidden_size,
        })
    }

    /// Whether this judge's weights are there.
    pub fn has(&self, judge: &Arc<Judge>) -> bool {
        self.judge.as_ref().is_some_and(|j| Arc::ptr_eq(j, judge))
    }

    /// Brings the weights of a judge that reads the target alone to the device, unless they are
    /// there.
    pub fn bring(&mut self, judge: &Arc<Judge>, model: &Model) -> Result<(), DeviceError> {
        if self.has(judge) {
            return Ok(());
        }
        let features = &judge.features;
        if features.taps.len() > TAPS {
            return Err(DeviceError::Judge(format!(
                "the judge reads the target in {} places, expected at most {TAPS} (on CUDA)",
                features.taps.len()
            )));
        }
        self.judge = None;
        let matrix = match &judge.head {
            Head::Linear { w, .. } => w,
            Head::TwoLayer { w1, .. } => w1,
        };
        let row = features.len();
        for (t, tap) in features.taps.iter().enumerate() {
            let of_unit = |u: usize| {
                let w = matrix[u * row + t * self.hidden..][..self.hidden].iter();
                let gain = &model.weights.norm;
                w.zip(gain).map(move |(w, gain)| match tap {
                    Tap::Final => w * gain,
                    Tap::Layer(_) => *w,
                })
            };
            let of_tap: Vec<f32> = (0..judge.head.width()).flat_map(of_unit).collect();
            self.weights
                .write(4 * t * MAX_WIDTH * self.hidden, &of_tap)?;
        }
        self.judge = Some(judge.clone());
        Ok(())
    }

    /// The address of a tap's weights, and where its products go.
    pub fn tap(&self, t: usize) -> (u64, u64) {
        let weights = self.weights.address() + (4 * t * MAX_WIDTH * self.hidden) as u64;
        let products = self.products.address() + (4 * t * MAX_WIDTH * MAX_ROWS) as u64;
        (weights, products)
    }

    /// The weights whose products ride with the last down projection, and where those go; 0 and 0
    /// where none do.
    pub fn riding(&self, judge: &Judge) -> (u64, u64) {
        let mut taps = judge.features.taps.iter();
        match taps.position(|&tap| rides(judge, tap)) {
            Some(t) => (self.tap(t).0, self.dots.address()),
            None => (0, 0),
        }
    }

    /// The bias that the kernel adds: none.
    pub fn zeros(&self) -> u64 {
        self.zeros.address()
    }

    /// Scores of `rows` rows; `scales` are those of the final norm, `parts` the partial sums of
    /// what rode with the down projection.
    pub fn scores(
        &self,
        judge: &Judge,
        rows: usize,
        parts: usize,
        scales: &[f32],
    ) -> Result<Vec<f32>, DeviceError> {
        let units = judge.head.width();
        let mut sums = vec![0f64; rows * units];
        for (t, tap) in judge.features.taps.iter().enumerate() {
            let rode = rides(judge, *tap);
            let (from, count) = match rode {
                true => (self.dots.read::<f32>(0, parts * MAX_ROWS)?, parts),
                false => {
                    let at = 4 * t * MAX_WIDTH * MAX_ROWS;
                    (self.products.read(at, units * MAX_ROWS)?, units)
                }
            };
            for row in 0..rows {
                let scale = match tap {
                    Tap::Final => f64::from(scales[row]),
                    Tap::Layer(_) => 1.0,
                };
                for i in 0..count {
                    let unit = if rode { 0 } else { i };
                    sums[row * units + unit] += f64::from(from[i * MAX_ROWS + row]) * scale;
                }
            }
        }
        let rows = sums.chunks(units);
        Ok(rows.map(|products| judge.score_of(products)).collect())
    }
}

/// Whether the products of a tap ride with the last layer's down projection.
pub fn rides(judge: &Judge, tap: Tap) -> bool {
    tap == Tap::Final && matches!(judge.head, Head::Linear { .. })
}

/// What a judge asks of the draft model, if anything, and of the target: two judges of the layout DT,
/// each of which reads one model. The products of both add up to those of the judge.
pub struct Parts {
    pub whole: Arc<Judge>,
    pub draft: Option<Arc<Judge>>,
    pub target: Arc<Judge>,
}

impl Parts {
    pub fn of(judge: &Arc<Judge>) -> Parts {
        let whole = judge.clone();
        let features = &judge.features;
        if features.layout == Layout::Dt {
            return Parts {
                target: whole.clone(),
                draft: None,
                whole,
            };
        }
        // the draft model's features stand first in every row of the matrix
        let (all, draft) = (features.len(), features.draft_width);
        let part = |columns: std::ops::Range<usize>, taps: &[Tap], width: usize| {
            let of_rows = |matrix: &[f32]| -> Vec<f32> {
                let rows = matrix.chunks_exact(all.max(1));
                rows.flat_map(|row| row[columns.clone()].iter().copied())
                    .collect()
            };
            let head = match &judge.head {
                Head::Linear { w, b } => Head::Linear {
                    w: of_rows(w),
                    b: *b,
                },
                Head::TwoLayer { w1, b1, w2, b2 } => Head::TwoLayer {
                    w1: of_rows(w1),
                    b1: b1.clone(),
                    w2: w2.clone(),
                    b2: *b2,
                },
            };
            Arc::new(Judge {
                head,
                features: Features {
                    layout: Layout::Dt,
                    taps: taps.to_vec(),
                    target_width: width,
                    draft_width: 0,
                },
                ..Judge::clone(judge)
            })
        };
        Parts {
            draft: Some(part(0..draft, &[Tap::Final], draft)),
            target: part(draft..all, &features.taps, features.target_width),
            whole,
        }
    }
}
