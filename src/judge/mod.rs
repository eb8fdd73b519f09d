//! stub
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct JudgeError;
#[derive(Clone, Copy, PartialEq)]
pub enum Tap {
    Final,
    Layer(usize),
}
pub struct Judge;
impl Judge {
    pub fn taps(&self) -> &[Tap] {
        &[]
    }
    pub fn reads_draft(&self) -> bool {
        false
    }
    pub fn score(&self, _: &[f32]) -> f32 {
        0.0
    }
    pub fn read(_: &std::path::Path) -> Result<Judge, JudgeError> {
        Err(JudgeError)
    }
    pub fn check(
        &self,
        _: &crate::model::Model,
        _: Option<&crate::model::Model>,
        _: bool,
    ) -> Result<(), JudgeError> {
        Ok(())
    }
    pub fn theta(&self, _: &str) -> Result<f32, JudgeError> {
        Ok(0.5)
    }
}
