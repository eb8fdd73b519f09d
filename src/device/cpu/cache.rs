//! The KV cache: keys in tiles of 16 positions, values row by row, both f32.

use super::lines::Lines;
use super::team::Shared;
use crate::model::Config;

/// Positions of a key tile.
pub(super) const TILE: usize = 16;

/// Keys and values of every layer for `capacity` slots.
///
/// Slot s < `len` holds position s of the committed sequence; the rows of a
/// pass take the slots from `len` on, in the order of the pass. Memory is
/// zeroed lazily by the system, so a slot never used costs nothing.
pub(super) struct Cache {
    /// (layer, kv head, tile, head_dim, 16): one load takes 8 positions of one feature
    keys: Lines,
    /// (layer, kv head, slot, value_stride)
    values: Lines,
    layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// head_dim rounded up to whole vectors, the rest zero
    pub value_stride: usize,
    /// slots, a multiple of [`TILE`]
    pub capacity: usize,
    /// committed positions
    pub len: usize,
}

impl Cache {
    pub fn new(config: &Config, layers: usize, capacity: usize) -> Cache {
        let capacity = capacity.next_multiple_of(TILE);
        let value_stride = config.head_dim.next_multiple_of(8);
        let heads = layers * config.kv_heads;
        Cache {
            keys: Lines::zeroed(heads * capacity * config.head_dim),
            values: Lines::zeroed(heads * capacity * value_stride),
            layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            value_stride,
            capacity,
            len: 0,
        }
    }

    /// Bytes that `capacity` slots take when all are used.
    pub fn bytes(&self) -> usize {
        4 * (self.keys.len() + self.values.len())
    }

    /// One layer, writable by the tasks of a region.
    pub fn layer(&mut self, layer: usize) -> LayerCache<'_> {
        let keys = self.kv_heads * self.capacity * self.head_dim;
        let values = self.kv_heads * self.capacity * self.value_stride;
        LayerCache {
            keys: Shared::new(&mut self.keys[layer * keys..(layer + 1) * keys]),
            values: Shared::new(&mut self.values[layer * values..(layer + 1) * values]),
            head_dim: self.head_dim,
            value_stride: self.value_stride,
            capacity: self.capacity,
        }
    }

    /// Commits the rows at `slots` (ascending): each moves to the next committed position.
    pub fn commit(&mut self, slots: &[usize]) {
        let (d, stride, capacity) = (self.head_dim, self.value_stride, self.capacity);
        for &slot in slots {
            let to = self.len;
            debug_assert!(to <= slot && slot < capacity);
            self.len += 1;
            if slot == to {
                continue;
            }
            for head in 0..self.layers * self.kv_heads {
                let keys = &mut self.keys[head * capacity * d..(head + 1) * capacity * d];
                for i in 0..d {
                    keys[key_at(to, i, d)] = keys[key_at(slot, i, d)];
                }
                let values =
                    &mut self.values[head * capacity * stride..(head + 1) * capacity * stride];
                values.copy_within(slot * stride..(slot + 1) * stride, to * stride);
            }
        }
    }
}

/// Where feature i of a slot's key stands within its head.
#[inline(always)]
fn key_at(slot: usize, i: usize, head_dim: usize) -> usize {
    (slot / TILE * head_dim + i) * TILE + slot % TILE
}

/// One layer's keys and values.
#[derive(Clone, Copy)]
pub(super) struct LayerCache<'a> {
    keys: Shared<'a, f32>,
    values: Shared<'a, f32>,
    pub head_dim: usize,
    pub value_stride: usize,
    capacity: usize,
}

impl LayerCache<'_> {
    /// Writes the key and value of one head at `slot`, both [head_dim].
    ///
    /// # Safety
    /// No other task touches this slot at the same time.
    pub unsafe fn write(&self, kv_head: usize, slot: usize, key: &[f32], value: &[f32]) {
        let keys = self.tile(kv_head, slot / TILE);
        let at = (kv_head * self.capacity + slot) * self.value_stride;
        let values = self.values.at(at, self.value_stride);
        // SAFETY: both are inside the buffers, and the slot is the caller's alone.
        unsafe {
            for (i, &k) in key.iter().enumerate() {
                *keys.add(i * TILE + slot % TILE) = k;
            }
            std::ptr::copy_nonoverlapping(value.as_ptr(), values, value.len());
        }
    }

    /// Keys of tile `tile`: [head_dim, 16]; the following tiles come after it.
    pub fn tile(&self, kv_head: usize, tile: usize) -> *mut f32 {
        let size = self.head_dim * TILE;
        self.keys
            .at(kv_head * self.capacity * self.head_dim + tile * size, size)
    }

    /// The value at `slot`: [value_stride]; the following slots come after it.
    pub fn value(&self, kv_head: usize, slot: usize) -> *const f32 {
        let at = (kv_head * self.capacity + slot) * self.value_stride;
        self.values.at(at, self.value_stride)
    }
}
