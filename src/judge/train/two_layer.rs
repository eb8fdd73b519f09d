//! The two-layer head, w2 . gelu(W1 x + b1) + b2: beyond the papers, SelfJudge's first open
//! question. Adam (1412.6980) over shuffled batches, stopped early on validation AUROC.

use super::curve::Ranking;
use super::data::Matrix;
use crate::judge::gelu;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView2, Axis};
use rayon::prelude::*;

const BATCH: usize = 256;
/// Rows of a batch that one task works on; fixed, so that sums are.
const PART: usize = 64;
const STEP: f32 = 1e-3;
const DECAY: (f32, f32) = (0.9, 0.999);
const MAX_EPOCHS: usize = 60;
/// Epochs without a better AUROC after which training ends.
const PATIENCE: usize = 8;

/// W1 [width, F], b1 [width], w2 [width], b2 [1], all of standardised features.
#[derive(Clone)]
pub(super) struct TwoLayer {
    pub w1: Array2<f32>,
    pub b1: Array1<f32>,
    pub w2: Array1<f32>,
    pub b2: Array1<f32>,
}

/// Labelled rows; fields as in the logistic problem, and the same objective.
pub(super) struct Problem<'a> {
    pub rows: &'a Matrix,
    pub labels: &'a [bool],
    pub weights: &'a [f64],
    pub c: f64,
    pub width: usize,
    pub seed: u64,
}

/// What was found.
pub(super) struct Fitted {
    pub head: TwoLayer,
    pub epochs: usize,
    /// Whether training ended because AUROC no longer rose.
    pub settled: bool,
}

impl TwoLayer {
    /// Uniform within 1 / sqrt(inputs), the custom of PyTorch's `Linear`.
    fn random(width: usize, features: usize, random: &mut fastrand::Rng) -> TwoLayer {
        let mut uniform = |inputs: usize| {
            let bound = 1.0 / (inputs as f32).sqrt();
            (2.0 * random.f32() - 1.0) * bound
        };
        TwoLayer {
            w1: Array2::from_shape_simple_fn((width, features), || uniform(features)),
            b1: Array1::from_shape_simple_fn(width, || uniform(features)),
            w2: Array1::from_shape_simple_fn(width, || uniform(width)),
            b2: Array1::zeros(1),
        }
    }

    fn zeros(&self) -> TwoLayer {
        TwoLayer {
            w1: Array2::zeros(self.w1.raw_dim()),
            b1: Array1::zeros(self.b1.raw_dim()),
            w2: Array1::zeros(self.w2.raw_dim()),
            b2: Array1::zeros(1),
        }
    }

    /// All parameters, in one order.
    fn slices(&mut self) -> [&mut [f32]; 4] {
        let TwoLayer { w1, b1, w2, b2 } = self;
        [
            w1.as_slice_mut().unwrap_or_default(),
            b1.as_slice_mut().unwrap_or_default(),
            w2.as_slice_mut().unwrap_or_default(),
            b2.as_slice_mut().unwrap_or_default(),
        ]
    }

    /// [rows, width]: W1 x + b1.
    fn hidden(&self, rows: &ArrayView2<f32>) -> Array2<f32> {
        rows.dot(&self.w1.t()) + &self.b1
    }

    /// The logit of every row.
    pub fn logits(&self, rows: &Matrix) -> Vec<f32> {
        let parts: Vec<Vec<f32>> = rows
            .values
            .par_chunks(BATCH * rows.features)
            .map(|part| {
                let hidden = self.hidden(&view(part, rows.features));
                let logits = hidden.mapv(|z| gelu(f64::from(z)) as f32).dot(&self.w2);
                logits.iter().map(|z| z + self.b2[0]).collect()
            })
            .collect();
        parts.concat()
    }

    /// Gradient of the summed, weighted loss of some rows.
    fn gradient(&self, rows: &[f32], labels: &[bool], weights: &[f32]) -> TwoLayer {
        let rows = view(rows, self.w1.ncols());
        let hidden = self.hidden(&rows);
        let active = hidden.mapv(|z| gelu(f64::from(z)) as f32);
        let mut slopes = active.dot(&self.w2) + self.b2[0];
        for ((slope, &label), &weight) in slopes.iter_mut().zip(labels).zip(weights) {
            let p = 1.0 / (1.0 + (-f64::from(*slope)).exp());
            *slope = weight * (p - f64::from(u8::from(label))) as f32;
        }
        let mut gradient = self.zeros();
        gradient.b2[0] = slopes.sum();
        gradient.w2.assign(&active.t().dot(&slopes));
        let mut back = hidden.mapv(|z| gelu_slope(f64::from(z)) as f32);
        for (mut row, &slope) in back.outer_iter_mut().zip(&slopes) {
            row.zip_mut_with(&self.w2, |g, &w| *g *= slope * w);
        }
        gradient.b1.assign(&back.sum_axis(Axis(0)));
        general_mat_mul(1.0, &back.t(), &rows, 0.0, &mut gradient.w1);
        gradient
    }
}

fn view(rows: &[f32], features: usize) -> ArrayView2<'_, f32> {
    // whole rows by construction; an odd length would leave out what is left over
    let shape = (rows.len() / features, features);
    ArrayView2::from_shape(shape, &rows[..shape.0 * shape.1])
        .unwrap_or_else(|_| ArrayView2::from(&[[0.0f32; 0]; 0]))
}

/// Derivative of [`gelu`].
fn gelu_slope(x: f64) -> f64 {
    let scale = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    let t = (scale * (x + 0.044715 * x * x * x)).tanh();
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * scale * (1.0 + 3.0 * 0.044715 * x * x)
}

impl Problem<'_> {
    /// Trains, and keeps the epoch that ranks `validation` best; its labels are
    /// `validation_labels`.
    pub fn solve(&self, validation: &Matrix, validation_labels: &[bool]) -> Fitted {
        let features = self.rows.features;
        let total: f64 = self.weights.iter().sum();
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut head = TwoLayer::random(self.width, features, &mut random);
        let (mut first, mut second) = (head.zeros(), head.zeros());
        let mut order: Vec<usize> = (0..self.rows.rows()).collect();
        let penalty = (1.0 / (self.c * total)) as f32;
        let scale = order.len() as f64 / total;
        let mut best = (f64::NEG_INFINITY, 0, head.clone());
        let (mut steps, mut epochs) = (0, 0);
        // the ranking asks which are unacceptable; any one class ranks the other
        let negative: Vec<bool> = validation_labels.iter().map(|l| !l).collect();
        let groups = vec![0; negative.len()];
        while epochs < MAX_EPOCHS && epochs - best.1 < PATIENCE {
            random.shuffle(&mut order);
            for batch in order.chunks(BATCH) {
                let parts: Vec<TwoLayer> = batch
                    .par_chunks(PART)
                    .map(|part| {
                        let row = |&i: &usize| &self.rows.values[i * features..][..features];
                        let rows: Vec<f32> = part.iter().flat_map(row).copied().collect();
                        let labels: Vec<bool> = part.iter().map(|&i| self.labels[i]).collect();
                        let weight =
                            |&i: &usize| (self.weights[i] * scale / batch.len() as f64) as f32;
                        let weights: Vec<f32> = part.iter().map(weight).collect();
                        head.gradient(&rows, &labels, &weights)
                    })
                    .collect();
                let mut gradient = head.zeros();
                for part in &parts {
                    gradient.w1 += &part.w1;
                    gradient.b1 += &part.b1;
                    gradient.w2 += &part.w2;
                    gradient.b2 += &part.b2;
                }
                gradient.w1.scaled_add(penalty, &head.w1);
                gradient.w2.scaled_add(penalty, &head.w2);
                steps += 1;
                adam(&mut head, gradient, &mut first, &mut second, steps);
            }
            epochs += 1;
            let auroc = Ranking::new(&head.logits(validation), &negative, &groups).auroc();
            if auroc > best.0 {
                best = (auroc, epochs, head.clone());
            }
        }
        Fitted {
            head: best.2,
            epochs: best.1,
            settled: epochs < MAX_EPOCHS,
        }
    }
}

/// One step of Adam.
fn adam(
    head: &mut TwoLayer,
    mut gradient: TwoLayer,
    first: &mut TwoLayer,
    second: &mut TwoLayer,
    steps: i32,
) {
    let corrected = (1.0 - DECAY.0.powi(steps), 1.0 - DECAY.1.powi(steps));
    let all = head
        .slices()
        .into_iter()
        .zip(gradient.slices())
        .zip(first.slices())
        .zip(second.slices());
    for (((parameters, gradient), first), second) in all {
        for (((p, &mut g), m), v) in parameters.iter_mut().zip(gradient).zip(first).zip(second) {
            *m = DECAY.0 * *m + (1.0 - DECAY.0) * g;
            *v = DECAY.1 * *v + (1.0 - DECAY.1) * g * g;
            *p -= STEP * (*m / corrected.0) / ((*v / corrected.1).sqrt() + 1e-8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, features: usize) -> Matrix {
        let mut random = fastrand::Rng::with_seed(5);
        let values = (0..rows * features)
            .map(|_| random.f32() * 4.0 - 2.0)
            .collect();
        Matrix { features, values }
    }

    /// Not linear: whether two features have one sign.
    fn problem_labels(rows: &Matrix) -> Vec<bool> {
        let row = |r: &[f32]| r[0] * r[1] > 0.0;
        rows.values.chunks(rows.features).map(row).collect()
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let rows = matrix(30, 5);
        let labels = problem_labels(&rows);
        let weights: Vec<f32> = (0..30).map(|i| 0.5 + (i % 3) as f32).collect();
        let head = TwoLayer::random(4, 5, &mut fastrand::Rng::with_seed(1));
        let mut gradient = head.gradient(&rows.values, &labels, &weights);
        let loss = |head: &TwoLayer| -> f64 {
            let logits = head.logits(&rows);
            let rows = logits.iter().zip(&labels).zip(&weights);
            rows.map(|((&z, &label), &w)| {
                let margin = f64::from(if label { z } else { -z });
                f64::from(w) * (-margin).exp().ln_1p()
            })
            .sum()
        };
        for part in 0..4 {
            for i in 0..gradient.slices()[part].len() {
                let moved = |by: f32| {
                    let mut head = head.clone();
                    head.slices()[part][i] += by;
                    loss(&head)
                };
                let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                let found = f64::from(gradient.slices()[part][i]);
                assert!((slope - found).abs() < 2e-2, "{part} {i}: {slope} {found}");
            }
        }
    }

    #[test]
    fn it_learns_what_no_line_divides_and_does_so_on_any_number_of_threads() {
        let (rows, validation) = (matrix(1500, 6), matrix(700, 6));
        let labels = problem_labels(&rows);
        let problem = Problem {
            rows: &rows,
            labels: &labels,
            weights: &[1.0; 1500],
            c: 100.0,
            width: 16,
            seed: 3,
        };
        let of_validation = problem_labels(&validation);
        let solve = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let fitted = pool
                .unwrap()
                .install(|| problem.solve(&validation, &of_validation));
            fitted.head.logits(&validation)
        };
        let logits = solve(1);
        let negative: Vec<bool> = of_validation.iter().map(|l| !l).collect();
        let auroc = Ranking::new(&logits, &negative, &[0; 700]).auroc();
        assert!(auroc > 0.95, "{auroc}");
        assert_eq!(logits, solve(3));
    }
}
