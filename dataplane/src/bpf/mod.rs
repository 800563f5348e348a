//! Small eBPF programs without a compiler: written as labelled instructions, loaded by bpf(2).
//!
//! ```text
//!  Assembler ──finish──▶ [Insn] ──Program::load──▶ verifier ──▶ Program ──attach_xdp──▶ Link (detaches when dropped)
//!                                    Map ──fd──┘ (BPF_PSEUDO_MAP_FD in the instructions)
//! ```
//!
//! What pollgate needs of eBPF is a screenful of instructions. Made here, they can be read next to the code that uses
//! them, need no clang, no ELF and no libbpf, and there is no binary that could differ from its source.
//!
//! The older kind of program, for sockets, is in [`classic`].
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

/// Whether this process may use eBPF on network devices, tried on a tiny map of sockets that is gone again at once. (Other
/// maps some hosts let anybody make.)
pub fn permitted() -> std::io::Result<()> {
    Map::<4, 4>::new(Kind::Sockets, "pg_probe", 1).map(drop)
}
