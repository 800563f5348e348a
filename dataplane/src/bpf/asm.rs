//! The assembler: instructions in order, jumps to labels. `finish` checks everything.
//!
//! ```text
//!  struct bpf_insn   │ code: 8 │ dst: 4 │ src: 4 │ off: 16 │ imm: 32 │
//! ```
//!
//! Labels are names. A jump may go forwards or backwards. Its distance is filled in at the end, when all labels are known.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

use pollgate_common::hash::{HashMap, new_map};

/// One instruction in the kernel's format.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register. R0 holds results. R1 to R5 hold arguments and are lost in a call. R6 to R9 survive calls. Fp is the top of
/// the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    Fp,
}

/// The size of a load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    Byte,
    /// Two bytes.
    Half,
    /// Four bytes.
    Word,
    /// Eight bytes.
    Double,
}

/// The second operand of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A register.
    Reg(Reg),
    /// A constant.
    Imm(i32),
}

impl From<Reg> for Operand {
    fn from(register: Reg) -> Operand {
        Operand::Reg(register)
    }
}

impl From<i32> for Operand {
    fn from(number: i32) -> Operand {
        Operand::Imm(number)
    }
}

/// When to jump. All comparisons are of unsigned 64-bit values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// They are equal.
    Equal,
    /// They differ.
    NotEqual,
    /// The first is greater.
    Greater,
    /// The first is less.
    Less,
    /// They have a bit in common.
    AnyBit,
}

/// Why the instructions are not a valid program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AsmError {
    /// A jump to a label that does not exist.
    UnknownLabel(&'static str),
    /// A label is defined twice.
    LabelTwice(&'static str),
    /// A jump is too far for 16 bits, or ends after the last instruction.
    OutOfRange(&'static str),
}

impl std::error::Error for AsmError {}

impl fmt::Display for AsmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AsmError::UnknownLabel(label) => write!(f, "a jump to {label:?}, which is not a label of the program"),
            AsmError::LabelTwice(label) => write!(f, "the label {label:?} is defined twice"),
            AsmError::OutOfRange(label) => write!(f, "the jump to {label:?} ends outside the program or is too far"),
        }
    }
}

// Instruction classes and modes (linux/bpf_common.h, linux/bpf.h).
const LD: u8 = 0x00;
const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const JMP: u8 = 0x05;
const ALU64: u8 = 0x07;
const MEM: u8 = 0x60;
const FROM_REGISTER: u8 = 0x08;
const ADD: u8 = 0x00;
const AND: u8 = 0x50;
const SHIFT_LEFT: u8 = 0x60;
const MOV: u8 = 0xb0;
const ALWAYS: u8 = 0x00;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
/// The source register of a 64-bit load that means "the map of this descriptor", or "its first value".
const PSEUDO_MAP_FD: u8 = 1;
const PSEUDO_MAP_VALUE: u8 = 2;

/// Collects the instructions of a program. All operations are on 64 bits.
#[derive(Default)]
pub struct Assembler {
    instructions: Vec<Insn>,
    labels: Vec<(&'static str, usize)>,
    jumps: Vec<(usize, &'static str)>,
}

impl Assembler {
    /// An assembler without instructions.
    pub fn new() -> Assembler {
        Assembler::default()
    }

    /// `to = from`
    pub fn mov(&mut self, to: Reg, from: impl Into<Operand>) {
        self.operation(ALU64 | MOV, to, from.into(), 0);
    }

    /// `to += by`
    pub fn add(&mut self, to: Reg, by: impl Into<Operand>) {
        self.operation(ALU64 | ADD, to, by.into(), 0);
    }

    /// `to &= mask`
    pub fn and(&mut self, to: Reg, mask: impl Into<Operand>) {
        self.operation(ALU64 | AND, to, mask.into(), 0);
    }

    /// `to <<= by`
    pub fn shift_left(&mut self, to: Reg, by: impl Into<Operand>) {
        self.operation(ALU64 | SHIFT_LEFT, to, by.into(), 0);
    }

    /// `to = *(at + offset)`, zero-extended.
    pub fn load(&mut self, width: Width, to: Reg, at: Reg, offset: i16) {
        self.push(LDX | MEM | size(width), to, at, offset, 0);
    }

    /// `*(at + offset) = value`. A constant is sign-extended to eight bytes.
    pub fn store(&mut self, width: Width, at: Reg, offset: i16, value: impl Into<Operand>) {
        match value.into() {
            Operand::Reg(from) => self.push(STX | MEM | size(width), at, from, offset, 0),
            Operand::Imm(number) => self.push(ST | MEM | size(width), at, Reg::R0, offset, number),
        }
    }

    /// `to =` the map. The descriptor must stay open until the program is loaded. Then the program holds the map.
    pub fn map(&mut self, to: Reg, map: BorrowedFd<'_>) {
        self.map_load(to, PSEUDO_MAP_FD, map);
    }

    /// `to =` the address of an array map's first value.
    pub fn map_value(&mut self, to: Reg, map: BorrowedFd<'_>) {
        self.map_load(to, PSEUDO_MAP_VALUE, map);
    }

    /// Jumps to `label`.
    pub fn jump(&mut self, label: &'static str) {
        self.jumps.push((self.instructions.len(), label));
        self.push(JMP | ALWAYS, Reg::R0, Reg::R0, 0, 0);
    }

    /// Jumps to `label` if the condition holds for `left` and `right`.
    pub fn jump_if(&mut self, left: Reg, condition: Condition, right: impl Into<Operand>, label: &'static str) {
        self.jumps.push((self.instructions.len(), label));
        self.operation(JMP | jump_code(condition), left, right.into(), 0);
    }

    /// Calls a helper function of the kernel by its number.
    pub fn call(&mut self, helper: i32) {
        self.push(JMP | CALL, Reg::R0, Reg::R0, 0, helper);
    }

    /// Ends the program. R0 is its result.
    pub fn exit(&mut self) {
        self.push(JMP | EXIT, Reg::R0, Reg::R0, 0, 0);
    }

    /// Puts a label on the next instruction.
    pub fn label(&mut self, name: &'static str) {
        self.labels.push((name, self.instructions.len()));
    }

    /// The program, with all jumps filled in.
    pub fn finish(mut self) -> Result<Vec<Insn>, AsmError> {
        let mut positions: HashMap<&'static str, usize> = new_map();
        for &(name, position) in &self.labels {
            if positions.insert(name, position).is_some() {
                return Err(AsmError::LabelTwice(name));
            }
        }
        for &(at, label) in &self.jumps {
            let &position = positions.get(label).ok_or(AsmError::UnknownLabel(label))?;
            let inside = position < self.instructions.len();
            let distance = inside.then(|| distance(at, position)).flatten();
            self.instructions[at].offset = distance.ok_or(AsmError::OutOfRange(label))?;
        }
        Ok(self.instructions)
    }

    fn operation(&mut self, code: u8, to: Reg, operand: Operand, offset: i16) {
        match operand {
            Operand::Reg(from) => self.push(code | FROM_REGISTER, to, from, offset, 0),
            Operand::Imm(number) => self.push(code, to, Reg::R0, offset, number),
        }
    }

    /// A 64-bit load is two instructions long.
    fn map_load(&mut self, to: Reg, pseudo: u8, map: BorrowedFd<'_>) {
        let code = LD | size(Width::Double);
        self.instructions.push(Insn {
            code,
            registers: registers(to as u8, pseudo),
            offset: 0,
            immediate: map.as_raw_fd(),
        });
        self.instructions.push(Insn { code: 0, registers: 0, offset: 0, immediate: 0 });
    }

    fn push(&mut self, code: u8, to: Reg, from: Reg, offset: i16, immediate: i32) {
        self.instructions.push(Insn { code, registers: registers(to as u8, from as u8), offset, immediate });
    }
}

/// The distance from the instruction after the jump to the target.
fn distance(from: usize, to: usize) -> Option<i16> {
    let (from, to) = (i64::try_from(from).ok()?, i64::try_from(to).ok()?);
    i16::try_from(to - from - 1).ok()
}

/// Two bit fields, in the machine's byte order.
fn registers(to: u8, from: u8) -> u8 {
    if cfg!(target_endian = "big") { to << 4 | from } else { from << 4 | to }
}

fn size(width: Width) -> u8 {
    match width {
        Width::Word => 0x00,
        Width::Half => 0x08,
        Width::Byte => 0x10,
        Width::Double => 0x18,
    }
}

fn jump_code(condition: Condition) -> u8 {
    match condition {
        Condition::Equal => 0x10,
        Condition::Greater => 0x20,
        Condition::AnyBit => 0x40,
        Condition::NotEqual => 0x50,
        Condition::Less => 0xa0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jumping(between: usize) -> Result<Vec<Insn>, AsmError> {
        let mut program = Assembler::new();
        program.jump("end");
        (0..between).for_each(|_| program.mov(Reg::R0, 0));
        program.label("end");
        program.exit();
        program.finish()
    }

    #[test]
    fn instructions_are_encoded_as_the_kernel_reads_them() {
        let mut program = Assembler::new();
        program.mov(Reg::R6, Reg::R1);
        program.load(Width::Half, Reg::R2, Reg::R7, 12);
        program.store(Width::Word, Reg::Fp, -8, -65536);
        program.jump_if(Reg::R2, Condition::Greater, Reg::R8, "pass");
        program.call(51);
        program.label("pass");
        program.exit();
        let seen: Vec<[u8; 8]> = program.finish().expect("a program").iter().map(bytes).collect();
        let expected = [
            [0xbf, 0x16, 0, 0, 0, 0, 0, 0],
            [0x69, 0x72, 12, 0, 0, 0, 0, 0],
            [0x62, 0x0a, 0xf8, 0xff, 0, 0, 0xff, 0xff],
            [0x2d, 0x82, 1, 0, 0, 0, 0, 0],
            [0x85, 0, 0, 0, 51, 0, 0, 0],
            [0x95, 0, 0, 0, 0, 0, 0, 0],
        ];
        // The bytes of a little-endian machine, as the specification prints them.
        if cfg!(target_endian = "little") {
            assert_eq!(seen, expected);
        }
    }

    fn bytes(insn: &Insn) -> [u8; 8] {
        let (offset, immediate) = (insn.offset.to_ne_bytes(), insn.immediate.to_ne_bytes());
        let [a, b, c, d] = immediate;
        [insn.code, insn.registers, offset[0], offset[1], a, b, c, d]
    }

    #[test]
    fn a_jump_goes_forwards_and_back() {
        let mut program = Assembler::new();
        program.label("start");
        program.mov(Reg::R0, 0);
        program.jump_if(Reg::R0, Condition::Equal, 1, "start");
        program.jump("end");
        program.mov(Reg::R0, 1);
        program.label("end");
        program.exit();
        let offsets: Vec<i16> = program.finish().expect("a program").iter().map(|insn| insn.offset).collect();
        assert_eq!(offsets, [0, -2, 1, 0, 0]);
    }

    #[test]
    fn a_jump_is_as_far_as_sixteen_bits() {
        assert!(jumping(32767).is_ok());
        assert_eq!(jumping(32768), Err(AsmError::OutOfRange("end")));
    }

    #[test]
    fn labels_must_be_there_once_and_before_an_instruction() {
        let mut nowhere = Assembler::new();
        nowhere.jump("nowhere");
        assert_eq!(nowhere.finish(), Err(AsmError::UnknownLabel("nowhere")));
        let mut twice = Assembler::new();
        twice.label("here");
        twice.label("here");
        twice.exit();
        assert_eq!(twice.finish(), Err(AsmError::LabelTwice("here")));
        let mut after_last = Assembler::new();
        after_last.jump("end");
        after_last.label("end");
        assert_eq!(after_last.finish(), Err(AsmError::OutOfRange("end")));
    }
}
