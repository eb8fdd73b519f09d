//! `ldmatrix`, `stmatrix` and `mma`.

use super::*;

impl Decoder<'_> {
    pub(super) fn matrix(&mut self, instruction: &Instruction) -> Result<()> {
        self.count(instruction, 2..=2)?;
        let mut mods = Mods::new(&instruction.opcode);
        let store = mods.first() == Some("stmatrix");
        let ok = mods.take("sync") && mods.take("aligned") && mods.take("m8n8");
        let count = match mods.one_of(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some(_) => 4,
            None => 0,
        };
        let transposed = mods.take("trans");
        let generic = mods.one_of(&["shared", "shared::cta"]).is_none();
        let ty = mods.ty();
        if !ok || count == 0 || ty != Some(Type::B16) || !mods.is_empty() {
            return self.unknown(instruction);
        }
        if store && self.capability < 90 {
            return self.error("`stmatrix` needs sm_90");
        }
        let (address, data) = if store { (0, 1) } else { (1, 0) };
        let (base, base_wide, offset) = self.address(&instruction.operands[address])?;
        let rows = self.elements(&instruction.operands[data], Type::B32, count, !store)?;
        let matrix = Matrix {
            store,
            count: count as usize,
            transposed,
            data: [rows[0], rows[1], rows[2], rows[3]],
            base,
            base_wide,
            offset,
            generic,
        };
        self.push(
            Op::Matrix(Box::new(matrix)),
            Slots::default(),
            Class::Matrix,
        );
        Ok(())
    }

    pub(super) fn mma(&mut self, instruction: &Instruction) -> Result<()> {
        self.count(instruction, 4..=4)?;
        let mut mods = Mods::new(&instruction.opcode);
        mods.first();
        let ok = mods.take("sync") && mods.take("aligned");
        let k = match mods.one_of(&["m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32"]) {
            Some("m16n8k4") => 4,
            Some("m16n8k8") => 8,
            Some("m16n8k16") => 16,
            Some(_) => 32,
            None => return self.unknown(instruction),
        };
        let ok = ok && mods.take("row") && mods.take("col");
        let satfinite = mods.take("satfinite");
        let element = |name: Option<&str>| {
            Some(match name? {
                "f16" => Element::F16,
                "bf16" => Element::Bf16,
                "tf32" => Element::Tf32,
                "e4m3" => Element::E4m3,
                "e5m2" => Element::E5m2,
                "s8" => Element::S8,
                "u8" => Element::U8,
                "f32" => Element::F32,
                "s32" => Element::S32,
                _ => return None,
            })
        };
        let types = [
            element(mods.first()),
            element(mods.first()),
            element(mods.first()),
            element(mods.first()),
        ];
        let [Some(d_type), Some(a_type), Some(b_type), Some(c_type)] = types else {
            return self.unknown(instruction);
        };
        use Element::*;
        let known = match (a_type, b_type) {
            (F16, F16) => {
                matches!(k, 8 | 16) && matches!(d_type, F16 | F32) && d_type == c_type && !satfinite
            }
            (Bf16, Bf16) => matches!(k, 8 | 16) && (d_type, c_type) == (F32, F32) && !satfinite,
            (Tf32, Tf32) => matches!(k, 4 | 8) && (d_type, c_type) == (F32, F32) && !satfinite,
            (E4m3 | E5m2, E4m3 | E5m2) => {
                if self.capability < 89 {
                    return self.error("8-bit floats in `mma` need sm_89");
                }
                matches!(k, 16 | 32)
                    && matches!(d_type, F16 | F32)
                    && d_type == c_type
                    && !satfinite
            }
            (S8 | U8, S8 | U8) => matches!(k, 16 | 32) && (d_type, c_type) == (S32, S32),
            _ => false,
        };
        if !ok || !known || !mods.is_empty() {
            return self.unknown(instruction);
        }
        let bits = match a_type {
            Tf32 => 32,
            F16 | Bf16 => 16,
            _ => 8,
        };
        // registers of 32 bits that each thread holds
        let a_count = (16 * k * bits / 32 / 32) as u32;
        let b_count = (8 * k * bits / 32 / 32) as u32;
        let c_count = |ty: Element| if ty == F16 { 2 } else { 4 };
        let operands = &instruction.operands;
        let c_scalar = if c_type == F32 { Type::F32 } else { Type::B32 };
        let d = self.elements(&operands[0], Type::B32, c_count(d_type), true)?;
        let a = self.elements(&operands[1], Type::B32, a_count, false)?;
        let b = self.elements(&operands[2], Type::B32, b_count, false)?;
        let c = self.elements(&operands[3], c_scalar, c_count(c_type), false)?;
        let name = instruction.opcode[3..].join(".").replace("row.col.", "");
        let mma = Mma {
            k,
            a_type,
            b_type,
            c_type,
            d_type,
            satfinite,
            d: [d[0], d[1], d[2], d[3]],
            a: [a[0], a[1], a[2], a[3]],
            b: [b[0], b[1]],
            c: [c[0], c[1], c[2], c[3]],
            name,
        };
        self.push(Op::Mma(Box::new(mma)), Slots::default(), Class::Mma);
        Ok(())
    }
}
