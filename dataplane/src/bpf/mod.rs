//! Small eBPF programs without a compiler: written as labelled instructions, loaded by bpf(2).
//!
//! ```text
//!  Assembler ──finish──▶ [Insn] ──Program::load──▶ verifier ──▶ Program ──attach_xdp──▶ Link (detaches when dropped)
//!                                    Map ──fd──┘ (BPF_PSEUDO_MAP_FD in the instructions)
//! ```
//!
//! pollgate needs only about one page of eBPF instructions. Here they are written next to the code that uses them. They need
//! no clang, no ELF and no libbpf, and there is no binary that could differ from its source.
//!
//! [`classic`] has the older kind of program, for sockets.
//!
//! (bpf(2); Documentation/bpf/standardization/instruction-set.rst.)

mod asm;
pub mod classic;
mod map;
mod program;
mod sys;

pub use asm::{AsmError, Assembler, Condition, Insn, Operand, Reg, Width};
pub use map::{Kind, Map};
pub use program::{Link, LoadError, Program, XdpMode};

/// Whether this process may use eBPF on network devices. Tries to create a small map of sockets, and removes it at once. (Some
/// hosts allow every user to create other kinds of map.)
pub fn permitted() -> std::io::Result<()> {
    Map::<4, 4>::new(Kind::Sockets, "pg_probe", 1).map(drop)
}
