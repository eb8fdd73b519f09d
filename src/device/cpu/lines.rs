//! A buffer that begins at a cache line.

use std::ops::{Deref, DerefMut};

/// Floats of a 64-byte cache line.
const LINE: usize = 16;

/// Floats from the start of a cache line on: a vector load of packed data never crosses
/// two lines, which would cost it twice the time. `Vec` alone promises 4 bytes.
#[derive(Default)]
pub(super) struct Lines {
    /// the floats, with room for the way to the first line
    buffer: Vec<f32>,
    start: usize,
    len: usize,
}

impl Lines {
    /// `len` zeros, which the system provides when they are first touched.
    pub fn zeroed(len: usize) -> Lines {
        let buffer = vec![0.0; len + LINE - 1];
        let past = buffer.as_ptr().addr() / size_of::<f32>() % LINE;
        Lines {
            buffer,
            start: (LINE - past) % LINE,
            len,
        }
    }

    /// Makes it `len` long; what it holds then is anything but uninitialised.
    pub fn resize(&mut self, len: usize) {
        if self.start + len <= self.buffer.len() {
            self.len = len;
        } else {
            *self = Lines::zeroed(len);
        }
    }
}

impl Deref for Lines {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.buffer[self.start..][..self.len]
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_at_lines_however_often_they_grow() {
        let mut lines = Lines::default();
        for len in [0, 1, 17, 5, 4096, 100_000, 3] {
            lines.resize(len);
            assert_eq!(lines.len(), len);
            if len > 0 {
                assert_eq!(lines.as_ptr().addr() % 64, 0);
                lines[len - 1] = 1.0;
            }
        }
        assert!(Lines::zeroed(1000).iter().all(|&x| x == 0.0));
    }
}
