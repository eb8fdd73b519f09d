//! Runs PTX from a text, on the smallest device.
#![allow(dead_code)]

pub mod apply;

use softcuda::counts::Counts;
use softcuda::device::Model;
use softcuda::exec::{Launch, Options, Violation, launch};
use softcuda::memory::Memory;
use softcuda::ptx::Module;
use std::sync::Arc;

pub struct Device {
    pub model: &'static Model,
    pub memory: Memory,
    pub options: Options,
}

impl Device {
    pub fn named(name: &str) -> Device {
        let model = Model::named(name).expect("a model");
        Device {
            model,
            memory: Memory::new(model.memory_bytes),
            options: Options::default(),
        }
    }

    pub fn tiny() -> Device {
        Device::named("tiny")
    }

    pub fn load(&self, ptx: &str) -> Module {
        match Module::load(ptx, self.model, &self.memory, None) {
            Ok(module) => module,
            Err(error) => {
                let line = error.line as usize;
                let text = ptx.lines().nth(line.saturating_sub(1)).unwrap_or("");
                panic!("{error}: {text}");
            }
        }
    }

    pub fn upload<T: bytemuck::Pod>(&self, data: &[T]) -> u64 {
        let bytes = bytemuck::cast_slice(data);
        let address = self.memory.alloc(bytes.len() as u64, 256).expect("memory");
        self.memory.write(address, bytes).expect("a write");
        address
    }

    pub fn empty(&self, bytes: u64) -> u64 {
        self.memory.alloc(bytes, 256).expect("memory")
    }

    pub fn download<T: bytemuck::Pod>(&self, address: u64, count: usize) -> Vec<T> {
        let mut data = vec![T::zeroed(); count];
        let bytes = bytemuck::cast_slice_mut(&mut data);
        self.memory.read(address, bytes).expect("a read");
        data
    }

    pub fn grid(
        &self,
        module: &Module,
        kernel: &str,
        grid: u32,
        block: u32,
        params: &[Param],
    ) -> Launch {
        let kernel = module
            .kernels()
            .find(|k| k.name == kernel)
            .or_else(|| module.kernels().find(|k| k.name.contains(kernel)))
            .expect("the kernel");
        Launch {
            kernel: Arc::clone(kernel),
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            dynamic_shared: 0,
            dynamic_shared_limit: 0,
            params: pack(kernel, params),
            cooperative: false,
            programmatic: false,
            concurrent: false,
            transfers: Vec::new(),
        }
    }

    pub fn run(&self, launches: &[Launch]) -> Result<Vec<Counts>, Box<Violation>> {
        launch(&self.memory, self.model, &self.options, launches)
    }
}

/// A parameter of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Param {
    Ptr(u64),
    U32(u32),
    F32(f32),
    U64(u64),
}

fn pack(kernel: &softcuda::exec::Kernel, params: &[Param]) -> Vec<u8> {
    assert_eq!(
        kernel.params.len(),
        params.len(),
        "parameters of {}",
        kernel.name
    );
    let mut data = vec![0; kernel.param_bytes as usize];
    for (place, param) in kernel.params.iter().zip(params) {
        let bytes = match param {
            Param::Ptr(v) | Param::U64(v) => v.to_le_bytes().to_vec(),
            Param::U32(v) => v.to_le_bytes().to_vec(),
            Param::F32(v) => v.to_le_bytes().to_vec(),
        };
        assert_eq!(bytes.len(), place.bytes as usize);
        let at = place.offset as usize;
        data[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    data
}

/// A kernel with pointer parameters `p0..` around `body`, whose address registers are
/// `%p0`... and whose index of the thread is `%t` (32 bits) and `%t64`.
pub fn kernel(pointers: usize, declarations: &str, body: &str) -> String {
    let params: Vec<String> = (0..pointers)
        .map(|i| format!(".param .u64 k_param_{i}"))
        .collect();
    let loads: String = (0..pointers)
        .map(|i| format!("ld.param.u64 %p{i}, [k_param_{i}];\n"))
        .collect();
    format!(
        ".version 9.0\n.target sm_90\n.address_size 64\n.visible .entry k({})\n{{\n\
         .reg .b64 %p<{}>;\n.reg .b32 %t, %n, %c;\n.reg .b64 %t64, %a, %bb;\n{declarations}\n{loads}\
         mov.u32 %t, %tid.x;\nmov.u32 %n, %ntid.x;\nmov.u32 %c, %ctaid.x;\n\
         mad.lo.u32 %t, %c, %n, %t;\ncvt.u64.u32 %t64, %t;\n{body}\nret;\n}}\n",
        params.join(",\n"),
        pointers.max(1)
    )
}
