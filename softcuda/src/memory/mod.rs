//! The device's address space: allocations with byte-precise knowledge of what was written, and
//! host memory that kernels can reach.
//!
//! Device addresses start at 1 TiB and are never used twice, so that a stale pointer is always
//! told from a valid one; between two allocations lie at least 512 bytes that belong to nobody.
//! Host memory has the address it has in the process.

mod raw;

pub use raw::Bytes;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// First device address.
pub const DEVICE_BASE: u64 = 1 << 40;
/// Start of the window of generic addresses that means shared memory.
pub const SHARED_WINDOW: u64 = 1 << 48;
/// Start of the window of generic addresses that means local memory.
pub const LOCAL_WINDOW: u64 = 2 << 48;
/// Bytes of either window.
pub const WINDOW_BYTES: u64 = 1 << 32;

const GUARD: u64 = 512;

/// Why the address space refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MemoryError {
    /// The device has not that much memory left.
    #[error("out of memory: {asked} bytes asked for, {free} of {total} free")]
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes left.
        free: u64,
        /// Bytes of the device.
        total: u64,
    },
    /// No allocation starts at (or holds) this address.
    #[error("address {address:#x} belongs to no allocation{hint}")]
    Invalid {
        /// The address.
        address: u64,
        /// What is known of it: freed before, or near which allocation.
        hint: String,
    },
    /// The range leaves the allocation in which it starts.
    #[error(
        "{bytes} bytes from {address:#x} leave the allocation of {allocated} bytes at {base:#x}"
    )]
    OutOfBounds {
        /// First address of the range.
        address: u64,
        /// Bytes of the range.
        bytes: u64,
        /// Start of the allocation.
        base: u64,
        /// Its bytes.
        allocated: u64,
    },
    /// A size or width that cannot be.
    #[error("{0}")]
    Argument(String),
}

/// What an allocation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Device memory that the program allocated.
    Device,
    /// A variable of a module.
    Module,
    /// Host memory that kernels can reach.
    Host,
}

/// One piece of the address space.
#[derive(Debug)]
pub struct Allocation {
    base: u64,
    kind: Kind,
    bytes: Bytes,
    /// One bit per byte: written at least once. `None`: host memory, whose writes are not seen.
    initialised: Option<Box<[AtomicU64]>>,
    label: RwLock<String>,
}

impl Allocation {
    /// First address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// True for an allocation of no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The name it was given; empty if none.
    pub fn label(&self) -> String {
        self.label
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The bytes themselves.
    #[inline(always)]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether every byte of `offset..offset + len` was written before.
    #[inline(always)]
    pub fn is_initialised(&self, offset: u64, len: u64) -> bool {
        self.first_uninitialised(offset, len).is_none()
    }

    /// Offset of the first byte of the range that was never written.
    #[inline(always)]
    pub fn first_uninitialised(&self, offset: u64, len: u64) -> Option<u64> {
        let bits = self.initialised.as_deref()?;
        let end = offset + len;
        let mut at = offset;
        if offset.is_multiple_of(64) {
            // whole words, as a warp that reads a row of vectors asks for
            let words = &bits[(offset / 64) as usize..(end / 64) as usize];
            let known = |word: &AtomicU64| word.load(Ordering::Relaxed) == u64::MAX;
            if words.iter().all(known) {
                at = end / 64 * 64;
            }
        }
        while at < end {
            let (word, low) = ((at / 64) as usize, at % 64);
            let take = (64 - low).min(end - at);
            let mask = ones(take) << low;
            let missing = mask & !bits[word].load(Ordering::Relaxed);
            if missing != 0 {
                return Some(at - low + u64::from(missing.trailing_zeros()));
            }
            at += take;
        }
        None
    }

    /// Remembers that the range was written.
    #[inline(always)]
    pub fn mark_initialised(&self, offset: u64, len: u64) {
        let Some(bits) = self.initialised.as_deref() else {
            return;
        };
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let (word, low) = ((at / 64) as usize, at % 64);
            let take = (64 - low).min(end - at);
            let mask = ones(take) << low;
            // most writes hit what was written before: a load is cheaper than a locked or
            if bits[word].load(Ordering::Relaxed) & mask != mask {
                bits[word].fetch_or(mask, Ordering::Relaxed);
            }
            at += take;
        }
    }

    fn mark_uninitialised(&self, offset: u64, len: u64) {
        let Some(bits) = self.initialised.as_deref() else {
            return;
        };
        for at in offset..offset + len {
            bits[(at / 64) as usize].fetch_and(!(1 << (at % 64)), Ordering::Relaxed);
        }
    }
}

#[inline(always)]
fn ones(count: u64) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

/// All allocations at one moment, in order of their addresses. A launch looks addresses up in
/// the table of the moment at which it started.
#[derive(Debug, Clone, Default)]
pub struct Table(Arc<Vec<Arc<Allocation>>>);

impl Table {
    /// Index of the allocation that holds `address`.
    pub fn find(&self, address: u64) -> Option<usize> {
        let after = self.0.partition_point(|a| a.base <= address);
        let index = after.checked_sub(1)?;
        (address - self.0[index].base < self.0[index].len()).then_some(index)
    }

    /// The allocations.
    pub fn all(&self) -> &[Arc<Allocation>] {
        &self.0
    }
}

#[derive(Debug, Default)]
struct State {
    table: Table,
    next: u64,
    used: u64,
    peak: u64,
    allocations: u64,
    freed: BTreeMap<u64, (u64, String)>,
}

/// An allocation that was never freed.
#[derive(Debug, Clone, PartialEq)]
pub struct Leak {
    /// Its address.
    pub address: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Its name; empty if none.
    pub label: String,
}

/// The memory of one device. All methods may be called from several threads.
#[derive(Debug)]
pub struct Memory {
    total: u64,
    state: RwLock<State>,
}

impl Memory {
    /// Memory of `total` bytes.
    pub fn new(total: u64) -> Memory {
        let state = State {
            next: DEVICE_BASE,
            ..State::default()
        };
        Memory {
            total,
            state: RwLock::new(state),
        }
    }

    fn state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates `bytes` bytes at a multiple of `align` (at least 256, as the real driver).
    ///
    /// # Errors
    /// Not enough memory left; no bytes; an alignment that is no power of two.
    pub fn alloc(&self, bytes: u64, align: u64) -> Result<u64, MemoryError> {
        self.alloc_kind(bytes, align, Kind::Device)
    }

    pub(crate) fn alloc_kind(
        &self,
        bytes: u64,
        align: u64,
        kind: Kind,
    ) -> Result<u64, MemoryError> {
        if bytes == 0 || !align.is_power_of_two() {
            return Err(MemoryError::Argument(format!(
                "an allocation of {bytes} bytes aligned to {align}: expected at least one byte \
                 and a power of two"
            )));
        }
        let mut state = self.state_mut();
        let free = self.total.saturating_sub(state.used);
        let refused = MemoryError::OutOfMemory {
            asked: bytes,
            free,
            total: self.total,
        };
        if bytes > free {
            return Err(refused);
        }
        let base = state.next.next_multiple_of(align.max(256));
        let words = bytes.div_ceil(64) as usize;
        let allocation = Allocation {
            base,
            kind,
            bytes: Bytes::zeroed(bytes as usize).ok_or(refused)?,
            initialised: Some(raw::zeroed_words(words)),
            label: RwLock::default(),
        };
        state.next = (base + bytes).next_multiple_of(256) + GUARD;
        if kind == Kind::Device {
            state.used += bytes;
            state.peak = state.peak.max(state.used);
            state.allocations += 1;
        }
        insert(&mut state, allocation);
        Ok(base)
    }

    /// Frees the allocation that starts at `address`.
    ///
    /// # Errors
    /// None starts there; the message says if one did and was freed.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut state = self.state_mut();
        let index = state
            .table
            .0
            .binary_search_by_key(&address, |a| a.base)
            .ok()
            .filter(|&i| state.table.0[i].kind != Kind::Host)
            .ok_or_else(|| invalid(&state, address))?;
        let allocation = Arc::make_mut(&mut state.table.0).remove(index);
        if allocation.kind == Kind::Device {
            state.used -= allocation.len();
        }
        let entry = (allocation.len(), allocation.label());
        state.freed.insert(address, entry);
        Ok(())
    }

    /// Makes `bytes` bytes of host memory at `address` visible to kernels.
    ///
    /// # Errors
    /// The range overlaps one that is visible already.
    ///
    /// # Safety
    /// The memory stays valid, for reads and writes, until [`Memory::unregister_host`].
    pub unsafe fn register_host(&self, address: *mut u8, bytes: usize) -> Result<(), MemoryError> {
        let mut state = self.state_mut();
        let base = address as u64;
        let overlaps =
            |a: &Arc<Allocation>| a.base < base + bytes as u64 && base < a.base + a.len();
        if bytes == 0 || state.table.0.iter().any(overlaps) {
            return Err(MemoryError::Argument(format!(
                "{bytes} bytes of host memory at {base:#x}: empty, or known already"
            )));
        }
        // SAFETY: what this function asks of its caller
        let bytes = unsafe { Bytes::foreign(address, bytes) };
        let allocation = Allocation {
            base,
            kind: Kind::Host,
            bytes,
            initialised: None,
            label: RwLock::default(),
        };
        insert(&mut state, allocation);
        Ok(())
    }

    /// Hides host memory from kernels again.
    ///
    /// # Errors
    /// No registered host memory starts at `address`.
    pub fn unregister_host(&self, address: *const u8) -> Result<(), MemoryError> {
        let mut state = self.state_mut();
        let address = address as u64;
        let index = state
            .table
            .0
            .binary_search_by_key(&address, |a| a.base)
            .ok()
            .filter(|&i| state.table.0[i].kind == Kind::Host)
            .ok_or_else(|| invalid(&state, address))?;
        Arc::make_mut(&mut state.table.0).remove(index);
        Ok(())
    }

    /// The allocations of this moment.
    pub fn table(&self) -> Table {
        self.state().table.clone()
    }

    /// The allocation that holds `address`.
    pub fn allocation(&self, address: u64) -> Option<Arc<Allocation>> {
        let state = self.state();
        let index = state.table.find(address)?;
        Some(state.table.0[index].clone())
    }

    fn range(&self, address: u64, bytes: u64) -> Result<(Arc<Allocation>, u64), MemoryError> {
        let state = self.state();
        let index = state
            .table
            .find(address)
            .ok_or_else(|| invalid(&state, address))?;
        let allocation = &state.table.0[index];
        let offset = address - allocation.base;
        if bytes > allocation.len() - offset {
            return Err(MemoryError::OutOfBounds {
                address,
                bytes,
                base: allocation.base,
                allocated: allocation.len(),
            });
        }
        Ok((allocation.clone(), offset))
    }

    /// Copies `data` to `address`.
    ///
    /// # Errors
    /// The range is not inside one allocation; the same holds for the methods below.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        if data.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.range(address, data.len() as u64)?;
        allocation.bytes.write(offset as usize, data);
        allocation.mark_initialised(offset, data.len() as u64);
        Ok(())
    }

    /// Copies from `address` into `data`. Bytes that were never written read as zero; ask
    /// [`Memory::uninitialised`] where that matters.
    #[allow(clippy::missing_errors_doc)]
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        if data.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.range(address, data.len() as u64)?;
        allocation.bytes.read(offset as usize, data);
        Ok(())
    }

    /// First address of the range that was never written.
    #[allow(clippy::missing_errors_doc)]
    pub fn uninitialised(&self, address: u64, bytes: u64) -> Result<Option<u64>, MemoryError> {
        if bytes == 0 {
            return Ok(None);
        }
        let (allocation, offset) = self.range(address, bytes)?;
        let first = allocation.first_uninitialised(offset, bytes);
        Ok(first.map(|offset| allocation.base + offset))
    }

    /// Copies `bytes` bytes from `source` to `target` together with the knowledge of which of
    /// them were ever written. The ranges may overlap.
    #[allow(clippy::missing_errors_doc)]
    pub fn copy(&self, target: u64, source: u64, bytes: u64) -> Result<(), MemoryError> {
        if bytes == 0 {
            return Ok(());
        }
        let (from, from_offset) = self.range(source, bytes)?;
        let (to, to_offset) = self.range(target, bytes)?;
        let mut data = vec![0; bytes as usize];
        from.bytes.read(from_offset as usize, &mut data);
        let known = from.is_initialised(from_offset, bytes);
        let holes: Vec<u64> = if known {
            Vec::new()
        } else {
            let hole = |&i: &u64| !from.is_initialised(from_offset + i, 1);
            (0..bytes).filter(hole).collect()
        };
        to.bytes.write(to_offset as usize, &data);
        to.mark_initialised(to_offset, bytes);
        for hole in holes {
            to.mark_uninitialised(to_offset + hole, 1);
        }
        Ok(())
    }

    /// Writes the low `width` bytes (1, 2 or 4) of `pattern` `count` times from `address` on.
    #[allow(clippy::missing_errors_doc)]
    pub fn fill(
        &self,
        address: u64,
        pattern: u32,
        width: usize,
        count: u64,
    ) -> Result<(), MemoryError> {
        if !matches!(width, 1 | 2 | 4) || !address.is_multiple_of(width as u64) {
            return Err(MemoryError::Argument(format!(
                "a fill of width {width} at {address:#x}: expected 1, 2 or 4, and an address that \
                 is a multiple of it"
            )));
        }
        if count == 0 {
            return Ok(());
        }
        let bytes = count.saturating_mul(width as u64);
        let (allocation, offset) = self.range(address, bytes)?;
        const CHUNK: usize = 4096;
        let mut data = [0u8; CHUNK];
        for piece in data.chunks_exact_mut(width) {
            piece.copy_from_slice(&pattern.to_le_bytes()[..width]);
        }
        let mut done = 0;
        while done < bytes {
            let piece = (bytes - done).min(CHUNK as u64);
            let at = (offset + done) as usize;
            allocation.bytes.write(at, &data[..piece as usize]);
            done += piece;
        }
        allocation.mark_initialised(offset, bytes);
        Ok(())
    }

    /// Names the allocation that holds `address`; counts and messages use the name.
    #[allow(clippy::missing_errors_doc)]
    pub fn label(&self, address: u64, label: &str) -> Result<(), MemoryError> {
        let (allocation, _) = self.range(address, 1)?;
        let mut name = allocation
            .label
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *name = label.to_owned();
        Ok(())
    }

    /// Device allocations that are not freed yet.
    pub fn leaks(&self) -> Vec<Leak> {
        let table = self.table();
        let device = |a: &&Arc<Allocation>| a.kind == Kind::Device;
        let leak = |a: &Arc<Allocation>| Leak {
            address: a.base,
            bytes: a.len(),
            label: a.label(),
        };
        table.all().iter().filter(device).map(leak).collect()
    }

    /// Bytes of the device.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes allocated now.
    pub fn used(&self) -> u64 {
        self.state().used
    }

    /// Most bytes ever allocated at a time.
    pub fn peak(&self) -> u64 {
        self.state().peak
    }

    /// Allocations made so far.
    pub fn allocations(&self) -> u64 {
        self.state().allocations
    }

    /// What is known of an address that no allocation holds, for messages.
    pub fn explain(&self, address: u64) -> String {
        hint(&self.state(), address)
    }
}

fn insert(state: &mut State, allocation: Allocation) {
    let table = Arc::make_mut(&mut state.table.0);
    let index = table.partition_point(|a| a.base < allocation.base);
    table.insert(index, Arc::new(allocation));
}

fn invalid(state: &State, address: u64) -> MemoryError {
    MemoryError::Invalid {
        address,
        hint: hint(state, address),
    }
}

fn hint(state: &State, address: u64) -> String {
    let name = |label: &str| match label {
        "" => String::new(),
        label => format!(" `{label}`"),
    };
    if address < 4096 {
        return ": a null pointer".to_owned();
    }
    if let Some((base, (bytes, label))) = state.freed.range(..=address).next_back()
        && address - base < *bytes
    {
        return format!(
            ": {bytes} bytes{} at {base:#x} were freed before",
            name(label)
        );
    }
    let after = state.table.0.partition_point(|a| a.base <= address);
    if let Some(before) = after.checked_sub(1).map(|i| &state.table.0[i]) {
        let end = before.base + before.len();
        if address >= end && address - end < (1 << 20) {
            return format!(
                ": {} bytes behind the end of the {} bytes{} at {:#x}",
                address - end,
                before.len(),
                name(&before.label()),
                before.base
            );
        }
        if address < end {
            return format!(
                ": inside the {} bytes{} at {:#x}",
                before.len(),
                name(&before.label()),
                before.base
            );
        }
    }
    if let Some(next) = state.table.0.get(after)
        && next.base - address < (1 << 20)
    {
        return format!(
            ": {} bytes before the {} bytes{} at {:#x}",
            next.base - address,
            next.len(),
            name(&next.label()),
            next.base
        );
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_known_as_written() {
        let memory = Memory::new(1 << 20);
        let a = memory.alloc(1000, 256).unwrap();
        assert_eq!(memory.uninitialised(a, 1000).unwrap(), Some(a));
        memory.write(a + 3, &[1, 2, 3]).unwrap();
        assert_eq!(memory.uninitialised(a + 3, 3).unwrap(), None);
        assert_eq!(memory.uninitialised(a + 3, 4).unwrap(), Some(a + 6));
        memory.fill(a + 100, 0xabcd, 2, 300).unwrap();
        assert_eq!(memory.uninitialised(a + 100, 600).unwrap(), None);
        let mut data = [0; 4];
        memory.read(a + 698, &mut data).unwrap();
        assert_eq!(data, [0xcd, 0xab, 0, 0]);
        let b = memory.alloc(64, 256).unwrap();
        memory.copy(b, a + 2, 5).unwrap();
        assert_eq!(memory.uninitialised(b, 1).unwrap(), Some(b));
        assert_eq!(memory.uninitialised(b + 1, 4).unwrap(), Some(b + 4));
    }

    #[test]
    fn errors_say_what_was_found() {
        let memory = Memory::new(4096);
        let a = memory.alloc(100, 1).unwrap();
        memory.label(a, "x").unwrap();
        let message = |e: MemoryError| e.to_string();
        assert!(message(memory.write(a + 90, &[0; 11]).unwrap_err()).contains("leave the"));
        assert!(message(memory.read(a + 101, &mut [0]).unwrap_err()).contains("1 bytes behind"));
        assert!(message(memory.alloc(8000, 1).unwrap_err()).contains("3996 of 4096 free"));
        memory.free(a).unwrap();
        assert!(message(memory.free(a).unwrap_err()).contains("`x`"));
        assert_eq!(memory.leaks(), []);
        assert_eq!(memory.peak(), 100);
    }
}
