//! What `cuModuleLoadData` is given: PTX text, a fat binary, or machine code alone.
//!
//! A fat binary is a header of 16 bytes (magic, version, header size, size of what follows) and a
//! row of entries, each with a header of its own: kind (1 PTX, 2 machine code), sizes, PTX or
//! code version, architecture, flags. The layout is not documented by NVIDIA; it is the one that
//! `nvcc` 13.0 writes and `cuobjdump` reads back, and the tests compare with files of both.

use super::error::{
    CUresult, ERROR_INVALID_IMAGE, ERROR_INVALID_PTX, ERROR_INVALID_VALUE, ERROR_NO_BINARY_FOR_GPU,
};
use crate::device::Model;
use std::fmt::Write as _;
use std::io::Read as _;

const FATBIN_MAGIC: u32 = 0xba55_ed50;
/// What `nvcc` puts into host code in front of a fat binary: magic, version, pointer.
const WRAPPER_MAGIC: u32 = 0x4662_43b1;
const ELF_MAGIC: u32 = 0x464c_457f;
const KIND_PTX: u16 = 1;
const KIND_ELF: u16 = 2;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
/// No image is larger; a size beyond it is a damaged header.
const MAX_BYTES: u64 = 1 << 30;

/// A module that this driver can run.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The PTX.
    pub ptx: String,
    /// Registers and local memory of its kernels in the words of `ptxas -v`, where the image
    /// carries machine code for the device beside the PTX.
    pub resources: Option<String>,
}

/// Why an image cannot be run: the code that a real driver would return, and what was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Result code.
    pub code: CUresult,
    /// What was found and expected.
    pub message: String,
}

fn refuse<T>(code: CUresult, message: impl Into<String>) -> Result<T, Refusal> {
    let message = message.into();
    Err(Refusal { code, message })
}

/// Reads the image at `address`, whose length only its own header tells.
///
/// # Errors
/// Nothing that this driver can run; the message says what was found.
///
/// # Safety
/// `address` is what a program gave to `cuModuleLoadData`: it points to zero-terminated PTX, or
/// to a fat binary or ELF file as long as its header says.
pub unsafe fn at_address(address: *const u8, model: &Model) -> Result<Image, Refusal> {
    if address.is_null() {
        return refuse(ERROR_INVALID_VALUE, "the image is a null pointer");
    }
    // A PTX text of fewer than four bytes ends before the fourth.
    let mut magic = [0u8; 4];
    for (i, byte) in magic.iter_mut().enumerate() {
        // SAFETY: no byte before this one was the terminating zero.
        *byte = unsafe { address.add(i).read() };
        if *byte == 0 {
            break;
        }
    }
    // SAFETY: the caller vouches for an image as long as its header says; the header is read
    // only where the magic announces one.
    unsafe {
        match u32::from_le_bytes(magic) {
            WRAPPER_MAGIC => at_address(address.add(8).cast::<*const u8>().read_unaligned(), model),
            FATBIN_MAGIC => {
                let size = address.add(8).cast::<u64>().read_unaligned();
                let header = address.add(6).cast::<u16>().read_unaligned();
                if size > MAX_BYTES {
                    return refuse(ERROR_INVALID_IMAGE, format!("a fat binary of {size} bytes"));
                }
                let bytes = size as usize + usize::from(header);
                read(std::slice::from_raw_parts(address, bytes), model)
            }
            ELF_MAGIC => machine_code_alone(model),
            _ => read(std::ffi::CStr::from_ptr(address.cast()).to_bytes(), model),
        }
    }
}

/// Reads an image of known length.
///
/// # Errors
/// As [`at_address`].
pub fn read(data: &[u8], model: &Model) -> Result<Image, Refusal> {
    match data.first_chunk().map(|magic| u32::from_le_bytes(*magic)) {
        Some(FATBIN_MAGIC) => fat_binary(data, model),
        Some(ELF_MAGIC) => machine_code_alone(model),
        _ => {
            let end = data.iter().position(|&b| b == 0).unwrap_or(data.len());
            let Ok(ptx) = std::str::from_utf8(&data[..end]) else {
                let message = "neither PTX text nor a fat binary";
                return refuse(ERROR_INVALID_IMAGE, message);
            };
            if !ptx.contains(".version") {
                let start: String = ptx.chars().take(40).collect();
                let message = format!("expected PTX or a fat binary, found `{start}`");
                return refuse(ERROR_INVALID_IMAGE, message);
            }
            let ptx = ptx.to_owned();
            Ok(Image {
                ptx,
                resources: None,
            })
        }
    }
}

fn machine_code_alone<T>(model: &Model) -> Result<T, Refusal> {
    let message = format!(
        "machine code without PTX: {} is played in software and runs PTX only (nvcc: \
         -gencode arch=compute_80,code=compute_80)",
        model.device_name
    );
    refuse(ERROR_NO_BINARY_FOR_GPU, message)
}

struct Entry<'a> {
    kind: u16,
    /// 80 for `sm_80` and `compute_80`
    architecture: u32,
    data: &'a [u8],
    flags: u64,
    unpacked_bytes: u64,
}

fn number<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk().copied()
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    number(data, at).map(u32::from_le_bytes)
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    number(data, at).map(u64::from_le_bytes)
}

/// The entry at the start of `data`, and the bytes it takes.
fn entry(data: &[u8]) -> Option<(Entry<'_>, usize)> {
    let kind = number(data, 0).map(u16::from_le_bytes)?;
    let header_bytes = u32_at(data, 4)? as usize;
    let padded = usize::try_from(u64_at(data, 8)?).ok()?;
    let packed = u32_at(data, 16)? as usize;
    let architecture = u32_at(data, 28)?;
    let flags = u64_at(data, 40)?;
    let unpacked_bytes = u64_at(data, 56)?;
    let end = header_bytes.checked_add(padded)?;
    let stored = data.get(header_bytes..end)?;
    let data = if packed == 0 {
        stored
    } else {
        stored.get(..packed)?
    };
    let entry = Entry {
        kind,
        architecture,
        data,
        flags,
        unpacked_bytes,
    };
    // an entry of no bytes would never end the walk
    (end > 0).then_some((entry, end))
}

impl Entry<'_> {
    fn unpacked(&self) -> Result<Vec<u8>, String> {
        if self.flags & FLAG_LZ4 != 0 {
            // a byte of LZ4 stands for 255 at most: more than that is a damaged header
            let most = 256 * self.data.len() as u64 + 64;
            let size = self.unpacked_bytes.min(most).min(MAX_BYTES) as usize;
            return lz4_flex::block::decompress(self.data, size)
                .map_err(|e| format!("its LZ4 data: {e}"));
        }
        if self.flags & FLAG_ZSTD != 0 {
            let mut unpacked = Vec::new();
            let wrong = |e: &dyn std::fmt::Display| format!("its Zstandard data: {e}");
            let decoder =
                ruzstd::decoding::StreamingDecoder::new(self.data).map_err(|e| wrong(&e))?;
            decoder
                .take(MAX_BYTES)
                .read_to_end(&mut unpacked)
                .map_err(|e| wrong(&e))?;
            return Ok(unpacked);
        }
        Ok(self.data.to_vec())
    }
}

fn fat_binary(data: &[u8], model: &Model) -> Result<Image, Refusal> {
    let damaged = || Refusal {
        code: ERROR_INVALID_IMAGE,
        message: "a fat binary whose headers do not fit its length".to_owned(),
    };
    let header_bytes = number(data, 6)
        .map(u16::from_le_bytes)
        .ok_or_else(damaged)?;
    let size = u64_at(data, 8).ok_or_else(damaged)?;
    let end = usize::try_from(size)
        .ok()
        .and_then(|s| s.checked_add(header_bytes.into()));
    let mut rest = end
        .and_then(|end| data.get(usize::from(header_bytes)..end))
        .ok_or_else(damaged)?;

    let (major, minor) = model.compute_capability;
    let device = 10 * major + minor;
    let mut found = Vec::new();
    let mut ptx: Option<Entry> = None;
    let mut code: Option<Entry> = None;
    while !rest.is_empty() {
        let (entry, bytes) = entry(rest).ok_or_else(damaged)?;
        rest = &rest[bytes..];
        let newest = |best: &Option<Entry>| {
            best.as_ref()
                .is_none_or(|best| best.architecture < entry.architecture)
        };
        let architecture = entry.architecture;
        match entry.kind {
            KIND_PTX => {
                found.push(format!("compute_{architecture}"));
                // PTX runs on its architecture and on newer ones; a driver takes the newest.
                if architecture <= device && newest(&ptx) {
                    ptx = Some(entry);
                }
            }
            KIND_ELF => {
                found.push(format!("sm_{architecture}"));
                // Machine code runs on the minor versions that follow its own.
                let fits = architecture / 10 == major && architecture <= device;
                if fits && newest(&code) {
                    code = Some(entry);
                }
            }
            _ => {}
        }
    }
    let Some(ptx) = ptx else {
        let message = format!(
            "the fat binary holds {}; {} of compute capability {major}.{minor} needs PTX of \
             compute_{device} or older",
            if found.is_empty() {
                "nothing".to_owned()
            } else {
                found.join(", ")
            },
            model.device_name
        );
        return refuse(ERROR_NO_BINARY_FOR_GPU, message);
    };
    let name = format!("compute_{}", ptx.architecture);
    let unpacked = ptx.unpacked().map_err(|e| Refusal {
        code: ERROR_INVALID_IMAGE,
        message: format!("{name} in the fat binary: {e}"),
    })?;
    let end = unpacked
        .iter()
        .position(|&b| b == 0)
        .unwrap_or(unpacked.len());
    let text = String::from_utf8(unpacked[..end].to_vec()).map_err(|_| Refusal {
        code: ERROR_INVALID_PTX,
        message: format!("{name} in the fat binary is no text"),
    })?;
    // What the machine code needs says what a launch of it may ask for. It is a help, not a part
    // of the module: code that cannot be read is passed over.
    let resources = code.and_then(|code| resources(&code.unpacked().ok()?, code.architecture));
    Ok(Image {
        ptx: text,
        resources,
    })
}

/// Registers and local memory of each kernel in an ELF file of machine code, as `ptxas -v` would
/// have printed them. They stand in the section `.nv.info` as records of format 4 (a size and a
/// value): attribute 0x2f holds a symbol and its registers, 0x11 a symbol and its stack.
fn resources(elf: &[u8], architecture: u32) -> Option<String> {
    use object::read::elf::{FileHeader, SectionHeader, Sym};
    let header = object::elf::FileHeader64::<object::LittleEndian>::parse(elf).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, elf).ok()?;
    let symbols = sections
        .symbols(endian, elf, object::elf::SHT_SYMTAB)
        .ok()?;
    let (_, info) = sections.section_by_name(endian, b".nv.info")?;
    let info = info.data(endian, elf).ok()?;

    let mut kernels: std::collections::BTreeMap<u32, (Option<u32>, u32)> = Default::default();
    let mut at = 0;
    while let Some(head) = u32_at(info, at) {
        let (format, attribute) = (head & 0xff, (head >> 8) & 0xff);
        // formats 1 to 3 hold their value in the record's upper half, 4 has bytes behind it
        let bytes = if format == 4 {
            (head >> 16) as usize
        } else {
            0
        };
        if format == 4 && bytes == 8 {
            let (symbol, value) = (u32_at(info, at + 4)?, u32_at(info, at + 8)?);
            let kernel = kernels.entry(symbol).or_default();
            match attribute {
                0x2f => kernel.0 = Some(value),
                0x11 => kernel.1 = value,
                _ => {}
            }
        }
        at += 4 + bytes;
    }
    let mut text = String::new();
    for (index, (registers, stack)) in kernels {
        let symbol = symbols.symbol(object::SymbolIndex(index as usize)).ok()?;
        let name = std::str::from_utf8(symbol.name(endian, symbols.strings()).ok()?).ok()?;
        let Some(registers) = registers else { continue };
        let _ = write!(
            text,
            "ptxas info    : Compiling entry function '{name}' for 'sm_{architecture}'\n\
             ptxas info    : Function properties for {name}\n    \
             {stack} bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
             ptxas info    : Used {registers} registers\n"
        );
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h100() -> &'static Model {
        Model::named("h100").unwrap()
    }

    /// A fat binary with uncompressed entries of (kind, architecture, data).
    fn fat(entries: &[(u16, u32, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, architecture, data) in entries {
            let padded = data.len().next_multiple_of(8);
            let mut header = vec![0u8; 64];
            header[..2].copy_from_slice(&kind.to_le_bytes());
            header[4..8].copy_from_slice(&64u32.to_le_bytes());
            header[8..16].copy_from_slice(&(padded as u64).to_le_bytes());
            header[28..32].copy_from_slice(&architecture.to_le_bytes());
            body.extend(header);
            body.extend(*data);
            body.resize(body.len() + padded - data.len(), 0);
        }
        let mut file = FATBIN_MAGIC.to_le_bytes().to_vec();
        file.extend(1u16.to_le_bytes());
        file.extend(16u16.to_le_bytes());
        file.extend((body.len() as u64).to_le_bytes());
        file.extend(body);
        file
    }

    #[test]
    fn the_newest_ptx_that_the_device_runs_is_taken() {
        let file = fat(&[
            (KIND_PTX, 80, b".version 8.0 // old"),
            (KIND_PTX, 90, b".version 8.0 // new"),
            (KIND_PTX, 120, b".version 8.0 // too new"),
        ]);
        let ptx = |device| read(&file, Model::named(device).unwrap()).unwrap().ptx;
        assert_eq!(ptx("h100"), ".version 8.0 // new");
        assert_eq!(ptx("a100"), ".version 8.0 // old");
    }

    #[test]
    fn files_of_nvcc_are_read_whatever_compressed_them() {
        let files: [&[u8]; 3] = [
            include_bytes!("../../tests/driver/fixtures/plain.fatbin"),
            include_bytes!("../../tests/driver/fixtures/lz4.fatbin"),
            include_bytes!("../../tests/driver/fixtures/zstd.fatbin"),
        ];
        for (device, target) in [("h100", ".target sm_90"), ("a100", ".target sm_80")] {
            let model = Model::named(device).unwrap();
            let images = files.map(|file| read(file, model).unwrap());
            for image in &images {
                assert_eq!(image.ptx.trim(), images[0].ptx.trim());
                assert!(image.ptx.contains(target), "{device}");
                let resources = image.resources.as_ref().unwrap();
                // what cuobjdump says of them
                assert!(
                    resources.contains(
                        "Function properties for mixed\n    0 bytes stack frame, 0 bytes spill \
                         stores, 0 bytes spill loads\nptxas info    : Used 18 registers\n"
                    ),
                    "{resources}"
                );
            }
        }
    }

    #[test]
    fn machine_code_alone_has_no_binary_for_this_device() {
        for file in [fat(&[(KIND_ELF, 90, b"\x7fELF")]), b"\x7fELF\x02".to_vec()] {
            let refusal = read(&file, h100()).unwrap_err();
            assert_eq!(refusal.code, ERROR_NO_BINARY_FOR_GPU, "{refusal:?}");
        }
        let newer = fat(&[(KIND_PTX, 120, b".version 8.7")]);
        let refusal = read(&newer, h100()).unwrap_err();
        assert_eq!(refusal.code, ERROR_NO_BINARY_FOR_GPU);
        assert!(
            refusal.message.contains("compute_120"),
            "{}",
            refusal.message
        );
    }

    #[test]
    fn damaged_files_are_refused() {
        let file = fat(&[(KIND_PTX, 80, b".version 8.0")]);
        for end in 0..file.len() {
            assert!(
                read(&file[..end], h100()).is_err(),
                "{end} bytes of {}",
                file.len()
            );
        }
        for (at, value) in [(20, 0xff), (24, 0xff), (31, 0xff), (12, 0xff)] {
            let mut file = file.clone();
            file[at] = value;
            let _ = read(&file, h100());
        }
        assert_eq!(
            read(b"no module", h100()).unwrap_err().code,
            ERROR_INVALID_IMAGE
        );
    }

    proptest::proptest! {
        #[test]
        fn no_damage_makes_it_panic(
            which in 0..3usize,
            changes in proptest::collection::vec((0..6800usize, proptest::num::u8::ANY), 1..8),
        ) {
            let files: [&[u8]; 3] = [
                include_bytes!("../../tests/driver/fixtures/plain.fatbin"),
                include_bytes!("../../tests/driver/fixtures/lz4.fatbin"),
                include_bytes!("../../tests/driver/fixtures/zstd.fatbin"),
            ];
            let mut file = files[which].to_vec();
            for (at, value) in changes {
                // half of the changes hit the headers of file and first entry
                let at = if value % 2 == 0 { at % 80 } else { at };
                file[at] = value;
            }
            if let Ok(image) = read(&file, h100()) {
                proptest::prop_assert!(!image.ptx.contains('\0'));
            }
        }
    }
}
