//! A software device, and launches on it.

use bytemuck::Pod;
use softcuda::counts::Counts;
use softcuda::device::Model;
use softcuda::exec::{Launch, Options, launch};
use softcuda::memory::Memory;
use softcuda::ptx::Module;
use std::sync::Arc;

pub struct Device {
    pub model: &'static Model,
    pub memory: Memory,
    pub options: Options,
}

impl Device {
    /// The smallest device: 4 multiprocessors.
    pub fn tiny() -> Device {
        let model = Model::named("tiny").expect("a model");
        Device {
            model,
            memory: Memory::new(model.memory_bytes),
            options: Options::default(),
        }
    }

    pub fn load(&self, ptx: &str) -> Module {
        Module::load(ptx, self.model, &self.memory, None).expect("valid PTX")
    }

    /// Memory that nothing wrote, under a label by which counts and messages name it.
    pub fn empty(&self, label: &str, bytes: usize) -> u64 {
        let address = self
            .memory
            .alloc(bytes.max(1) as u64, 256)
            .expect("device memory");
        self.memory.label(address, label).expect("a label");
        address
    }

    pub fn upload<T: Pod>(&self, label: &str, data: &[T]) -> u64 {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let address = self.empty(label, bytes.len());
        self.memory.write(address, bytes).expect("a write");
        address
    }

    pub fn download<T: Pod>(&self, address: u64, count: usize) -> Vec<T> {
        let mut data = vec![T::zeroed(); count];
        let bytes = bytemuck::cast_slice_mut(&mut data);
        self.memory.read(address, bytes).expect("a read");
        data
    }

    /// Runs one grid; a violation fails the test.
    pub fn run(
        &self,
        module: &Module,
        kernel: &str,
        grid: u32,
        block: u32,
        shared_bytes: u32,
        params: &[Param],
    ) -> Counts {
        let found = module.kernels().find(|k| k.name == kernel);
        let kernel = found.unwrap_or_else(|| panic!("no kernel {kernel}"));
        let grid = Launch {
            kernel: Arc::clone(kernel),
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            dynamic_shared: shared_bytes,
            dynamic_shared_limit: shared_bytes,
            params: pack(kernel, params),
            cooperative: false,
            programmatic: false,
            concurrent: false,
            transfers: Vec::new(),
        };
        match launch(&self.memory, self.model, &self.options, &[grid]) {
            Ok(mut counts) => counts.remove(0),
            Err(violation) => panic!("{}: {violation}", kernel.name),
        }
    }
}

/// A parameter of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Param {
    Ptr(u64),
    I32(i32),
    F32(f32),
}

fn pack(kernel: &softcuda::exec::Kernel, params: &[Param]) -> Vec<u8> {
    assert_eq!(kernel.params.len(), params.len(), "{}", kernel.name);
    let mut data = vec![0; kernel.param_bytes as usize];
    for (place, param) in kernel.params.iter().zip(params) {
        let bytes = match param {
            Param::Ptr(v) => v.to_le_bytes().to_vec(),
            Param::I32(v) => v.to_le_bytes().to_vec(),
            Param::F32(v) => v.to_le_bytes().to_vec(),
        };
        assert_eq!(bytes.len(), place.bytes as usize, "{}", kernel.name);
        let at = place.offset as usize;
        data[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    data
}
