//! Initialisation, versions, errors and device queries.

use crate::device::Model;
use crate::driver::abi::{Out, Text, Uuid};
use crate::driver::error::*;
use crate::driver::state::{driver, init};
use crate::driver::symbols;
use std::ffi::c_char;

/// The version of CUDA whose interface this driver has: 13.0.
const VERSION: i32 = 13000;

fn model(device: i32) -> Result<&'static Model> {
    let model = driver()?.settings.model;
    if device == 0 {
        Ok(model)
    } else {
        Err(ERROR_INVALID_DEVICE)
    }
}

/// Kilohertz, bytes and the like fit the interface's `int` or are cut to its largest value.
fn int(value: impl TryInto<i32>) -> i32 {
    value.try_into().unwrap_or(i32::MAX)
}

/// The value of a `CUdevice_attribute`; `None` for a number that is none.
fn attribute(model: &Model, attribute: u32) -> Option<i32> {
    Some(match attribute {
        1 => int(model.max_threads_per_block),
        2..=4 => int(model.max_block[attribute as usize - 2]),
        5..=7 => int(model.max_grid[attribute as usize - 5]),
        8 => int(model.shared_per_block),
        9 => int(model.constant_bytes),
        10 => int(model.warp_size),
        11 => i32::MAX, // pitch
        12 => int(model.registers_per_block),
        13 => int(model.clock_khz),
        14 | 30 => 512, // alignment of textures, surfaces
        15 => 1,        // copies beside launches
        16 => int(model.multiprocessors),
        19 => 1, // host memory can be mapped
        31 => 1, // concurrent kernels
        36 => int(model.memory_clock_khz),
        37 => int(model.memory_bus_bits),
        38 => int(model.l2_bytes),
        39 => int(model.max_threads_per_multiprocessor),
        40 => 3,  // copy engines
        41 => 1,  // one address space with the host
        51 => 32, // alignment of a pitch
        75 => int(model.compute_capability.0),
        76 => int(model.compute_capability.1),
        78 => 1,      // stream priorities
        79 | 80 => 1, // first-level cache for global and local memory
        81 => int(model.shared_per_multiprocessor),
        82 => int(model.registers_per_multiprocessor),
        83 | 89 => 1, // managed memory, while the host uses it, too
        87 => 2,      // rate of f32 over that of f64
        90 => 1,      // preemption
        91 => 1,      // registered host memory has the address it has on the host
        95 => 1,      // cooperative launch
        97 => int(model.shared_per_block_optin),
        99 => 1, // host memory can be registered
        106 => int(model.max_blocks_per_multiprocessor),
        111 => int(model.reserved_shared_per_block),
        115 => 1, // memory pools
        // What is not modelled: textures, peers, clusters, virtual memory, sharing.
        17..160 => 0,
        _ => return None,
    })
}

fn write_text(text: &str, to: Out<c_char>, bytes: i32) -> Result {
    let bytes = usize::try_from(bytes)
        .ok()
        .filter(|&n| n > 0)
        .ok_or(ERROR_INVALID_VALUE)?;
    let kept = text.len().min(bytes - 1);
    for (i, &byte) in text.as_bytes()[..kept].iter().chain(&[0]).enumerate() {
        to.at(i).set(byte as c_char)?;
    }
    Ok(())
}

const UUID: Uuid = Uuid {
    bytes: *b"softcuda device0",
};

/// Flag of `cuGetProcAddress`: names mean their variants for per-thread default streams.
const PER_THREAD_DEFAULT_STREAM: u64 = 2;

fn proc_address(
    symbol: Text,
    address: Out<*const ()>,
    version: i32,
    flags: u64,
    status: Out<u32>,
) -> Result {
    let name = symbol.get()?;
    let found = if flags & PER_THREAD_DEFAULT_STREAM != 0 {
        None
    } else {
        symbols::resolve(&name, version)
    };
    // CU_GET_PROC_ADDRESS_SUCCESS, _SYMBOL_NOT_FOUND
    status.set_if_asked(if found.is_some() { 0 } else { 1 });
    address.set(found.unwrap_or(std::ptr::null()))?;
    match (found, status.is_null()) {
        (None, true) => Err(ERROR_NOT_FOUND),
        _ => Ok(()),
    }
}

/// `cudaDeviceProp`'s ancestor `CUdevprop`
#[repr(C)]
pub struct OldProperties {
    max_threads: i32,
    max_block: [i32; 3],
    max_grid: [i32; 3],
    shared: i32,
    constant: i32,
    warp: i32,
    pitch: i32,
    registers: i32,
    clock: i32,
    texture_align: i32,
}

api! {
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        init()
    }

    fn cuDriverGetVersion(version: Out<i32>) {
        version.set(VERSION)
    }

    fn cuGetErrorName(code: CUresult, name: Out<*const c_char>) {
        let Some((text, _)) = describe(code) else {
            name.set(std::ptr::null())?;
            return Err(ERROR_INVALID_VALUE);
        };
        name.set(text.as_ptr())
    }

    fn cuGetErrorString(code: CUresult, text: Out<*const c_char>) {
        let Some((_, found)) = describe(code) else {
            text.set(std::ptr::null())?;
            return Err(ERROR_INVALID_VALUE);
        };
        text.set(found.as_ptr())
    }

    fn cuGetProcAddress(symbol: Text, address: Out<*const ()>, version: i32, flags: u64) {
        proc_address(symbol, address, version, flags, Out(std::ptr::null_mut()))
    }

    fn cuGetProcAddress_v2(
        symbol: Text, address: Out<*const ()>, version: i32, flags: u64, status: Out<u32>,
    ) {
        proc_address(symbol, address, version, flags, status)
    }

    fn cuDeviceGetCount(count: Out<i32>) {
        driver()?;
        count.set(1)
    }

    fn cuDeviceGet(device: Out<i32>, ordinal: i32) {
        model(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetName(name: Out<c_char>, bytes: i32, device: i32) {
        write_text(model(device)?.device_name, name, bytes)
    }

    fn cuDeviceGetUuid(uuid: Out<Uuid>, device: i32) {
        model(device)?;
        uuid.set(UUID)
    }

    fn cuDeviceGetUuid_v2(uuid: Out<Uuid>, device: i32) {
        model(device)?;
        uuid.set(UUID)
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) {
        bytes.set(model(device)?.memory_bytes as usize)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, which: u32, device: i32) {
        value.set(attribute(model(device)?, which).ok_or(ERROR_INVALID_VALUE)?)
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) {
        let (a, b) = model(device)?.compute_capability;
        major.set(int(a))?;
        minor.set(int(b))
    }

    fn cuDeviceGetProperties(properties: Out<OldProperties>, device: i32) {
        let model = model(device)?;
        let value = |which| attribute(model, which).unwrap_or(0);
        properties.set(OldProperties {
            max_threads: value(1),
            max_block: [value(2), value(3), value(4)],
            max_grid: [value(5), value(6), value(7)],
            shared: value(8),
            constant: value(9),
            warp: value(10),
            pitch: value(11),
            registers: value(12),
            clock: value(13),
            texture_align: value(14),
        })
    }

    fn cuDeviceGetPCIBusId(text: Out<c_char>, bytes: i32, device: i32) {
        model(device)?;
        write_text("0000:00:00.0", text, bytes)
    }

    fn cuDeviceGetByPCIBusId(device: Out<i32>, text: Text) {
        driver()?;
        match text.get()?.as_str() {
            "0000:00:00.0" | "0000:00:00" | "00:00.0" => device.set(0),
            _ => Err(ERROR_INVALID_DEVICE),
        }
    }

    fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) {
        model(device)?;
        model(peer)?;
        can.set(0)
    }

    fn cuProfilerStart() {
        driver().map(|_| ())
    }

    fn cuProfilerStop() {
        driver().map(|_| ())
    }

    fn cuModuleGetLoadingMode(mode: Out<u32>) {
        driver()?;
        mode.set(1) // CU_MODULE_EAGER_LOADING
    }

    fn cuDeviceGetExecAffinitySupport(supported: Out<i32>, kind: u32, device: i32) {
        model(device)?;
        // CU_EXEC_AFFINITY_TYPE_SM_COUNT is the only kind
        if kind != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        supported.set(0)
    }
}
