//! Logistic regression with L2, scikit-learn's objective.
//!
//! The optimiser is argmin's L-BFGS with the line search of Moré and Thuente; loss and
//! gradient are ours. linfa-logistic, which is built on the same optimiser, was the first
//! choice and does not fit: it sums losses in the type of the features, and in float32 the
//! sum over tens of thousands of rows is too coarse for the line search to converge; in
//! float64 the features take twice their memory; every evaluation reads them twice, once
//! for the loss and once for the gradient; and it knows no class weights. Here the rows
//! stay float32, sums are float64, and one pass over the rows gives loss and gradient.

use super::data::{Matrix, block};
use argmin::core::{CostFunction, Error, Executor, Gradient, State};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;
use rayon::prelude::*;
use std::cell::RefCell;

/// Most iterations for one C.
const MAX_ITERATIONS: u64 = 2000;
/// Pairs of steps and gradients that L-BFGS remembers.
const HISTORY: usize = 10;
/// Mean loss per sample, in nats, by which the weights found may lie above the optimum.
/// Root mean square, scores are then off by less than 1e-4.
const GAP: f64 = 1e-8;

/// Labelled rows. The objective is
///
/// sum_i s_i log(1 + exp(-t_i z_i)) / S + |w|^2 / (2 C S),  z = w . x + b,  S = sum_i s_i,
///
/// with t = 1 for a positive row and -1 for any other: scikit-learn's divided by C S. The
/// intercept b is not penalised.
pub(super) struct Problem<'a> {
    pub rows: &'a Matrix,
    /// [rows]: whether the sigmoid is to be 1.
    pub labels: &'a [bool],
    /// [rows]: s, above 0.
    pub weights: &'a [f64],
    /// Inverse strength of the penalty.
    pub c: f64,
}

/// What was found.
pub(super) struct Fitted {
    /// w, then b.
    pub parameters: Vec<f64>,
    pub iterations: u64,
    pub converged: bool,
}

impl Problem<'_> {
    fn penalty(&self) -> f64 {
        1.0 / (self.c * self.weights.iter().sum::<f64>())
    }

    /// Loss and gradient.
    fn evaluate(&self, parameters: &[f64]) -> (f64, Vec<f64>) {
        let features = self.rows.features;
        let (w, b) = (&parameters[..features], parameters[features]);
        let per_block = block(self.rows.rows());
        let blocks = self
            .rows
            .values
            .par_chunks(per_block * features)
            .zip(self.labels.par_chunks(per_block))
            .zip(self.weights.par_chunks(per_block));
        let parts: Vec<(f64, Vec<f64>)> = blocks
            .map(|((rows, labels), weights)| {
                let mut loss = 0.0;
                let mut gradient = vec![0.0; features + 1];
                for ((row, &label), &weight) in rows.chunks_exact(features).zip(labels).zip(weights)
                {
                    let z = dot(row, w) + b;
                    let margin = if label { z } else { -z };
                    // exp of a negative number only: it never overflows
                    let e = (-margin.abs()).exp();
                    loss += weight * (e.ln_1p() + (-margin).max(0.0));
                    let wrong = if margin >= 0.0 {
                        e / (1.0 + e)
                    } else {
                        1.0 / (1.0 + e)
                    };
                    let slope = weight * if label { -wrong } else { wrong };
                    // the row is still in the first cache
                    for (g, &x) in gradient.iter_mut().zip(row) {
                        *g += slope * f64::from(x);
                    }
                    gradient[features] += slope;
                }
                (loss, gradient)
            })
            .collect();
        let total: f64 = self.weights.iter().sum();
        let penalty = self.penalty();
        let mut loss = 0.0;
        let mut gradient = vec![0.0; features + 1];
        for (part_loss, part) in parts {
            loss += part_loss;
            for (g, p) in gradient.iter_mut().zip(part) {
                *g += p;
            }
        }
        for (i, g) in gradient.iter_mut().enumerate() {
            *g = *g / total + if i < features { penalty * w[i] } else { 0.0 };
        }
        let squares: f64 = w.iter().map(|w| w * w).sum();
        (loss / total + 0.5 * penalty * squares, gradient)
    }

    /// The minimum, searched from `start` (w, then b).
    pub fn solve(&self, start: Vec<f64>) -> Result<Fitted, Error> {
        // The objective is strongly convex in w with modulus `penalty`: it lies within
        // |gradient|^2 / (2 penalty) of its minimum.
        let tolerance = (2.0 * GAP * self.penalty()).sqrt().min(1e-4);
        let solver = LBFGS::new(MoreThuenteLineSearch::new(), HISTORY)
            .with_tolerance_grad(tolerance)?
            .with_tolerance_cost(0.0)?;
        let cached = Cached {
            problem: self,
            last: RefCell::default(),
        };
        let result = Executor::new(cached, solver)
            .configure(|state| state.param(start.clone()).max_iters(MAX_ITERATIONS))
            .ctrlc(false)
            .run()?;
        // Where rounding leaves the line search no step, the best point so far is kept.
        let state = result.state;
        let parameters = state.get_best_param().cloned().unwrap_or(start);
        let (_, gradient) = self.evaluate(&parameters);
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        Ok(Fitted {
            parameters,
            iterations: state.get_iter(),
            converged: norm <= tolerance,
        })
    }
}

/// argmin asks for loss and gradient of a point one after the other: one pass gives both.
struct Cached<'a> {
    problem: &'a Problem<'a>,
    /// Parameters, loss, gradient.
    last: RefCell<(Vec<f64>, f64, Vec<f64>)>,
}

impl Cached<'_> {
    fn at(&self, parameters: &[f64]) {
        if self.last.borrow().0 != parameters {
            let (loss, gradient) = self.problem.evaluate(parameters);
            *self.last.borrow_mut() = (parameters.to_vec(), loss, gradient);
        }
    }
}

impl CostFunction for Cached<'_> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, parameters: &Vec<f64>) -> Result<f64, Error> {
        self.at(parameters);
        Ok(self.last.borrow().1)
    }
}

impl Gradient for Cached<'_> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, parameters: &Vec<f64>) -> Result<Vec<f64>, Error> {
        self.at(parameters);
        Ok(self.last.borrow().2.clone())
    }
}

/// In eight sums, so that the compiler can use vector registers.
fn dot(row: &[f32], w: &[f64]) -> f64 {
    let (rows, row_rest) = row.as_chunks::<8>();
    let (ws, w_rest) = w.as_chunks::<8>();
    let mut sums = [0.0f64; 8];
    for (x, w) in rows.iter().zip(ws) {
        for lane in 0..8 {
            sums[lane] += f64::from(x[lane]) * w[lane];
        }
    }
    let rest: f64 = row_rest
        .iter()
        .zip(w_rest)
        .map(|(&x, &w)| f64::from(x) * w)
        .sum();
    sums.iter().sum::<f64>() + rest
}

/// The logit of every row.
pub(super) fn logits(rows: &Matrix, parameters: &[f64]) -> Vec<f32> {
    let (w, b) = parameters.split_at(rows.features);
    rows.values
        .par_chunks(rows.features)
        .map(|row| (dot(row, w) + b[0]) as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, features: usize, seed: u64) -> Matrix {
        let mut random = fastrand::Rng::with_seed(seed);
        let values = (0..rows * features)
            .map(|_| random.f32() * 2.0 - 1.0)
            .collect();
        Matrix { features, values }
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let rows = matrix(700, 11, 1);
        let labels: Vec<bool> = (0..700).map(|i| i % 3 == 0).collect();
        let weights: Vec<f64> = (0..700).map(|i| 0.5 + f64::from(i % 5)).collect();
        let problem = Problem {
            rows: &rows,
            labels: &labels,
            weights: &weights,
            c: 0.01,
        };
        let at: Vec<f64> = (0..12).map(|i| 0.3 * f64::from(i) - 1.5).collect();
        let (_, gradient) = problem.evaluate(&at);
        for i in 0..12 {
            let moved = |by: f64| {
                let mut at = at.clone();
                at[i] += by;
                problem.evaluate(&at).0
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!(
                (slope - gradient[i]).abs() < 1e-8,
                "{i}: {slope} {}",
                gradient[i]
            );
        }
    }

    #[test]
    fn separable_rows_have_finite_weights_whatever_c() {
        let rows = Matrix {
            features: 2,
            values: (0..400)
                .flat_map(|i| [if i % 2 == 0 { 1.0 } else { -1.0 }, 0.0])
                .collect(),
        };
        let labels: Vec<bool> = (0..400).map(|i| i % 2 == 0).collect();
        let mut start = vec![0.0; 3];
        for c in [1e-6, 1.0, 1e6] {
            let problem = Problem {
                rows: &rows,
                labels: &labels,
                weights: &[1.0; 400],
                c,
            };
            let fitted = problem.solve(start).unwrap();
            assert!(fitted.converged, "C = {c}");
            assert!(fitted.parameters.iter().all(|p| p.is_finite()));
            assert!(fitted.parameters[0] > 0.0 && fitted.parameters[1] == 0.0);
            start = fitted.parameters;
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let rows = matrix(3000, 37, 2);
        let labels: Vec<bool> = rows.values.chunks(37).map(|r| r[0] + r[5] > 0.3).collect();
        let weights = vec![1.0; 3000];
        let solve = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let problem = Problem {
                rows: &rows,
                labels: &labels,
                weights: &weights,
                c: 0.1,
            };
            pool.unwrap()
                .install(|| problem.solve(vec![0.0; 38]).unwrap().parameters)
        };
        assert_eq!(solve(1), solve(5));
    }
}
