//! Classic BPF with labels (Documentation/networking/filter.rst). An unprivileged process may give such a program to the
//! kernel for its sockets.
//!
//! A program has an accumulator A, an index register X and sixteen words of memory. Jumps only go forward, so every program
//! ends. A conditional jump reaches at most 255 instructions; an unconditional jump has no such limit. So a jump to a label
//! is always:
//!
//! ```text
//!   if A ? k  ─no──────┐
//!     ja label         │
//!   …         ◀────────┘
//! ```
//!
//! `Assembler::finish` fills in the distances.

use libc::sock_filter;

/// Most instructions the kernel takes (BPF_MAXINSNS).
pub const MOST: usize = 4096;

/// A finished program.
#[derive(Clone, Debug)]
pub struct Program(Box<[sock_filter]>);

impl Program {
    /// Its instructions.
    pub fn instructions(&self) -> &[sock_filter] {
        &self.0
    }
}

/// A target of jumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// Collects the instructions of a program.
#[derive(Default)]
pub(crate) struct Assembler {
    code: Vec<sock_filter>,
    /// Position of each label, once it is bound.
    positions: Vec<Option<usize>>,
    /// Unconditional jumps and their targets.
    jumps: Vec<(usize, Label)>,
}

/// Condition of a jump, on A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum If {
    /// A = k.
    Equal,
    /// A > k.
    Above,
    /// A ≥ k.
    NotBelow,
    /// A and k have a bit in common.
    AnyOf,
}

/// Operation on A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Math {
    Subtract,
    Multiply,
    Modulo,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
}

impl Assembler {
    /// A new label, not bound yet.
    pub(crate) fn label(&mut self) -> Label {
        self.positions.push(None);
        Label(self.positions.len() - 1)
    }

    /// Binds the label to the next instruction.
    pub(crate) fn bind(&mut self, label: Label) {
        debug_assert_eq!(self.positions[label.0], None, "bound twice");
        self.positions[label.0] = Some(self.code.len());
    }

    /// A = the packet's word at `at`, in network order.
    pub(crate) fn load_word(&mut self, at: u32) {
        self.add(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at);
    }

    /// A = the packet's half-word at `at`.
    pub(crate) fn load_half(&mut self, at: u32) {
        self.add(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, at);
    }

    /// A = the packet's byte at `at`.
    pub(crate) fn load_byte(&mut self, at: u32) {
        self.add(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, at);
    }

    /// A = the packet's half-word at X + `at`.
    pub(crate) fn load_half_indexed(&mut self, at: u32) {
        self.add(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, at);
    }

    /// X = four times the low half of the packet's byte at `at`: the length of an IPv4 header.
    pub(crate) fn index_by_header_length(&mut self, at: u32) {
        self.add(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, at);
    }

    /// X = k.
    pub(crate) fn index(&mut self, k: u32) {
        self.add(libc::BPF_LDX | libc::BPF_IMM, k);
    }

    /// A = memory.
    pub(crate) fn recall(&mut self, memory: u32) {
        self.add(libc::BPF_LD | libc::BPF_MEM, memory);
    }

    /// X = memory.
    pub(crate) fn recall_index(&mut self, memory: u32) {
        self.add(libc::BPF_LDX | libc::BPF_MEM, memory);
    }

    /// Memory = A.
    pub(crate) fn store(&mut self, memory: u32) {
        self.add(libc::BPF_ST, memory);
    }

    /// X = A.
    pub(crate) fn copy_to_index(&mut self) {
        self.add(libc::BPF_MISC | libc::BPF_TAX, 0);
    }

    /// A = A op k.
    pub(crate) fn math(&mut self, op: Math, k: u32) {
        self.add(libc::BPF_ALU | libc::BPF_K | op.code(), k);
    }

    /// A = A op X.
    pub(crate) fn math_index(&mut self, op: Math) {
        self.add(libc::BPF_ALU | libc::BPF_X | op.code(), 0);
    }

    /// Jumps to the label if the condition is true.
    pub(crate) fn jump_if(&mut self, question: If, k: u32, label: Label) {
        self.add(libc::BPF_JMP | libc::BPF_K | question.code(), k);
        if let Some(last) = self.code.last_mut() {
            last.jf = 1;
        }
        self.jump(label);
    }

    /// Jumps to the label.
    pub(crate) fn jump(&mut self, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.add(libc::BPF_JMP | libc::BPF_JA, 0);
    }

    /// Returns k.
    pub(crate) fn give(&mut self, k: u32) {
        self.add(libc::BPF_RET | libc::BPF_K, k);
    }

    /// Returns A.
    pub(crate) fn give_result(&mut self) {
        // BPF_A, which the libc crate does not name.
        const A: u32 = 0x10;
        self.add(libc::BPF_RET | A, 0);
    }

    /// The program, with all jumps filled in.
    pub(crate) fn finish(mut self) -> Program {
        for (from, label) in self.jumps {
            let to = self.positions[label.0].unwrap_or(self.code.len());
            debug_assert!(to > from && to < self.code.len(), "a jump out of the program or back");
            self.code[from].k = u32::try_from(to.saturating_sub(from + 1)).unwrap_or(u32::MAX);
        }
        debug_assert!(self.code.len() <= MOST, "{} instructions", self.code.len());
        Program(self.code.into())
    }

    fn add(&mut self, code: u32, k: u32) {
        let code = u16::try_from(code).unwrap_or(u16::MAX);
        self.code.push(sock_filter { code, jt: 0, jf: 0, k });
    }
}

impl If {
    fn code(self) -> u32 {
        match self {
            If::Equal => libc::BPF_JEQ,
            If::Above => libc::BPF_JGT,
            If::NotBelow => libc::BPF_JGE,
            If::AnyOf => libc::BPF_JSET,
        }
    }
}

impl Math {
    fn code(self) -> u32 {
        match self {
            Math::Subtract => libc::BPF_SUB,
            Math::Multiply => libc::BPF_MUL,
            Math::Modulo => libc::BPF_MOD,
            Math::Or => libc::BPF_OR,
            Math::Xor => libc::BPF_XOR,
            Math::ShiftLeft => libc::BPF_LSH,
            Math::ShiftRight => libc::BPF_RSH,
        }
    }
}

/// Our own interpreter of programs, for tests.
#[cfg(test)]
pub(crate) mod machine {
    use super::Program;

    /// Runs the program on a packet that starts at its network header and has this EtherType. A read beyond the packet
    /// ends the program with 0, as in the kernel.
    pub(crate) fn run(program: &Program, ether_type: u16, packet: &[u8]) -> u32 {
        step(program, ether_type, packet).unwrap_or(0)
    }

    fn load(packet: &[u8], at: u64, size: u16, ether_type: u16) -> Option<u32> {
        let protocol = (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL).cast_unsigned();
        if at == u64::from(protocol) {
            return Some(ether_type.into());
        }
        let length = [4, 2, 1][usize::from(size >> 3)];
        let bytes = packet.get(usize::try_from(at).ok()?..)?.get(..length)?;
        Some(bytes.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte)))
    }

    fn step(program: &Program, ether_type: u16, packet: &[u8]) -> Option<u32> {
        let (mut a, mut x, mut memory, mut at) = (0u32, 0u32, [None; 16], 0);
        loop {
            let op = program.instructions().get(at).expect("the program ends by itself");
            at += 1;
            let (class, size, mode, k) = (op.code & 7, op.code & 0x18, op.code & 0xe0, op.k);
            let (math, of) = (op.code & 0xf0, if op.code & 8 == 0 { k } else { x });
            match class {
                0 => {
                    a = match mode {
                        0x00 => k,
                        0x20 => load(packet, k.into(), size, ether_type)?,
                        0x40 => load(packet, u64::from(x) + u64::from(k), size, ether_type)?,
                        0x60 => memory[k as usize].expect("the kernel refuses a read of what was not stored"),
                        other => panic!("no such load: {other:#x}"),
                    }
                }
                1 => {
                    x = match mode {
                        0x00 => k,
                        0x60 => memory[k as usize].expect("the kernel refuses a read of what was not stored"),
                        0xa0 => (load(packet, k.into(), 0x10, ether_type)? & 15) * 4,
                        other => panic!("no such load of X: {other:#x}"),
                    }
                }
                2 => memory[k as usize] = Some(a),
                4 => {
                    a = match math {
                        0x10 => a.wrapping_sub(of),
                        0x20 => a.wrapping_mul(of),
                        0x40 => a | of,
                        0x60 => a << of,
                        0x70 => a >> of,
                        0x90 => a % of,
                        0xa0 => a ^ of,
                        other => panic!("no such sum: {other:#x}"),
                    }
                }
                5 => {
                    let yes = match math {
                        0x00 => {
                            at += k as usize;
                            continue;
                        }
                        0x10 => a == of,
                        0x20 => a > of,
                        0x30 => a >= of,
                        0x40 => a & of != 0,
                        other => panic!("no such question: {other:#x}"),
                    };
                    at += usize::from(if yes { op.jt } else { op.jf });
                }
                6 => return Some(if size == 0x10 { a } else { k }),
                _ => x = a,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_reach_near_and_far_labels() {
        let mut code = Assembler::default();
        let (far, near) = (code.label(), code.label());
        code.load_word(0);
        code.jump_if(If::Above, 1000, far);
        code.jump_if(If::Equal, 7, near);
        code.give(1);
        code.bind(near);
        code.give(2);
        for _ in 0..2000 {
            code.give(3);
        }
        code.bind(far);
        code.math(Math::Subtract, 1000);
        code.give_result();
        let program = code.finish();
        let run = |word: u32| machine::run(&program, 0x0800, &word.to_be_bytes());
        assert_eq!([run(8), run(7), run(1001), run(u32::MAX)], [1, 2, 1, u32::MAX - 1000]);
        assert_eq!(machine::run(&program, 0x0800, &[1, 2, 3]), 0, "a read beyond the packet");
    }
}
