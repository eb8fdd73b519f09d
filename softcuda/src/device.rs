//! Device models: what the software device says it is, and the limits it enforces.

/// Limits and attributes of one kind of device, as NVIDIA documents them for the real one
/// (CUDA C++ Programming Guide, "Compute Capabilities"; data sheets for memory and clocks).
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Short name by which the model is chosen: `tiny`, `a100`, `h100`, `b200`.
    pub name: &'static str,
    /// What `cuDeviceGetName` answers.
    pub device_name: &'static str,
    /// Major and minor compute capability.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Threads of a warp.
    pub warp_size: u32,
    /// Most threads of a block.
    pub max_threads_per_block: u32,
    /// Most threads resident on a multiprocessor.
    pub max_threads_per_multiprocessor: u32,
    /// Most blocks resident on a multiprocessor.
    pub max_blocks_per_multiprocessor: u32,
    /// Largest block in x, y, z.
    pub max_block: [u32; 3],
    /// Largest grid in x, y, z.
    pub max_grid: [u32; 3],
    /// Shared memory a block gets without opting in, in bytes.
    pub shared_per_block: u32,
    /// Shared memory a block can opt in to, in bytes.
    pub shared_per_block_optin: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_per_multiprocessor: u32,
    /// Shared memory that the system takes from each resident block, in bytes.
    pub reserved_shared_per_block: u32,
    /// Constant memory, in bytes.
    pub constant_bytes: u32,
    /// 32-bit registers of a block at most.
    pub registers_per_block: u32,
    /// 32-bit registers of a multiprocessor.
    pub registers_per_multiprocessor: u32,
    /// Registers a thread can have.
    pub max_registers_per_thread: u32,
    /// Second-level cache, in bytes.
    pub l2_bytes: u64,
    /// Device memory, in bytes.
    pub memory_bytes: u64,
    /// Clock of the multiprocessors, in kHz.
    pub clock_khz: u32,
    /// Clock of the memory, in kHz.
    pub memory_clock_khz: u32,
    /// Width of the memory bus, in bits.
    pub memory_bus_bits: u32,
    /// Peak bandwidth of device memory, in bytes per second.
    pub bandwidth: f64,
    /// Dense bf16 tensor-core rate, in multiply-adds times two per second.
    pub tensor_flops: f64,
}

const BASE: Model = Model {
    name: "",
    device_name: "",
    compute_capability: (9, 0),
    multiprocessors: 132,
    warp_size: 32,
    max_threads_per_block: 1024,
    max_threads_per_multiprocessor: 2048,
    max_blocks_per_multiprocessor: 32,
    max_block: [1024, 1024, 64],
    max_grid: [0x7fff_ffff, 65535, 65535],
    shared_per_block: 48 << 10,
    shared_per_block_optin: 227 << 10,
    shared_per_multiprocessor: 228 << 10,
    reserved_shared_per_block: 1 << 10,
    constant_bytes: 64 << 10,
    registers_per_block: 65536,
    registers_per_multiprocessor: 65536,
    max_registers_per_thread: 255,
    l2_bytes: 50 << 20,
    memory_bytes: 80 << 30,
    clock_khz: 1_980_000,
    memory_clock_khz: 2_619_000,
    memory_bus_bits: 5120,
    bandwidth: 3.35e12,
    tensor_flops: 989e12,
};

static MODELS: [Model; 4] = [
    Model {
        name: "tiny",
        device_name: "softcuda tiny (H100 with 4 multiprocessors)",
        multiprocessors: 4,
        memory_bytes: 8 << 30,
        bandwidth: 3.35e12 * 4.0 / 132.0,
        tensor_flops: 989e12 * 4.0 / 132.0,
        ..BASE
    },
    Model {
        name: "a100",
        device_name: "softcuda A100-SXM4-80GB",
        compute_capability: (8, 0),
        multiprocessors: 108,
        shared_per_block_optin: 163 << 10,
        shared_per_multiprocessor: 164 << 10,
        l2_bytes: 40 << 20,
        clock_khz: 1_410_000,
        memory_clock_khz: 1_593_000,
        bandwidth: 2.039e12,
        tensor_flops: 312e12,
        ..BASE
    },
    Model {
        name: "h100",
        device_name: "softcuda H100-SXM5-80GB",
        ..BASE
    },
    Model {
        name: "b200",
        device_name: "softcuda B200",
        compute_capability: (10, 0),
        multiprocessors: 148,
        l2_bytes: 126 << 20,
        memory_bytes: 180 << 30,
        clock_khz: 1_965_000,
        memory_clock_khz: 3_996_000,
        memory_bus_bits: 8192,
        bandwidth: 8.0e12,
        tensor_flops: 2250e12,
        ..BASE
    },
];

impl Model {
    /// The model called `name`, if there is one.
    pub fn named(name: &str) -> Option<&'static Model> {
        MODELS.iter().find(|model| model.name == name)
    }

    /// All models.
    pub fn all() -> &'static [Model] {
        &MODELS
    }

    /// Blocks of `threads` threads with `registers` registers each and `shared` bytes of shared
    /// memory (static and dynamic together) that one multiprocessor holds at a time. Registers
    /// are given out to warps in units of 256, shared memory in units of 128 bytes.
    pub fn resident_blocks(&self, threads: u32, registers: u32, shared: u32) -> u32 {
        if threads == 0 || threads > self.max_threads_per_block {
            return 0;
        }
        let warps = threads.div_ceil(self.warp_size);
        let by_threads = self.max_threads_per_multiprocessor / (warps * self.warp_size);
        let per_warp = (registers.max(1) * self.warp_size).next_multiple_of(256);
        let by_registers = self.registers_per_multiprocessor / per_warp / warps;
        let per_block = shared.next_multiple_of(128) + self.reserved_shared_per_block;
        let by_shared = self.shared_per_multiprocessor / per_block;
        by_threads
            .min(by_registers)
            .min(by_shared)
            .min(self.max_blocks_per_multiprocessor)
    }
}
