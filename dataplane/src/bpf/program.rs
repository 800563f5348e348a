//! Programs: verified by the kernel, attached to an interface by a link, or run on one frame for their result.

#![allow(unsafe_code, reason = "commands contain the addresses of instructions and frames")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::asm::Insn;
use super::sys::{self, Attributes, Command};

/// BPF_PROG_TYPE_XDP and BPF_XDP.
const PROGRAM_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
/// XDP_FLAGS_SKB_MODE and XDP_FLAGS_DRV_MODE (linux/if_link.h).
const SKB_MODE: u32 = 1 << 1;
const DRIVER_MODE: u32 = 1 << 2;
/// Size of the buffer for the verifier's log of a small program, and how much of the log's end is shown.
const LOG: usize = 1 << 20;
const SHOWN: usize = 2000;

/// How a program is attached to its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before the kernel makes a packet buffer of the frame.
    Native,
    /// In the network stack, after that. This works with any driver, but loses most of the gain of XDP.
    Generic,
}

/// Why a program was not loaded.
#[derive(Debug, thiserror::Error)]
#[error("{source}{}", log.as_deref().map(|log| format!("; the verifier reports: {log}")).unwrap_or_default())]
pub struct LoadError {
    /// The kernel's error.
    pub source: io::Error,
    /// The end of the verifier's log, if the verifier ran.
    pub log: Option<String>,
}

/// A loaded XDP program.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
}

/// Keeps a program attached to an interface until this is dropped.
#[derive(Debug)]
pub struct Link {
    _fd: OwnedFd,
    mode: XdpMode,
}

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
}

// SAFETY: the structure of BPF_PROG_LOAD, up to expected_attach_type.
unsafe impl Attributes for Load {}

#[repr(C)]
struct CreateLink {
    program: u32,
    interface: u32,
    attach: u32,
    flags: u32,
}

// SAFETY: the structure of BPF_LINK_CREATE, up to its flags.
unsafe impl Attributes for CreateLink {}

#[repr(C)]
struct TestRun {
    program: u32,
    result: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

// SAFETY: the structure of BPF_PROG_TEST_RUN, up to its duration.
unsafe impl Attributes for TestRun {}

impl Program {
    /// Loads the instructions into the kernel, which verifies them.
    pub fn load(name: &str, instructions: &[Insn]) -> Result<Program, LoadError> {
        match load(name, instructions, &mut []) {
            Ok(fd) => Ok(Program { fd }),
            Err(source) if source.raw_os_error() == Some(libc::EPERM) => Err(LoadError { source, log: None }),
            Err(source) => Err(LoadError { source, log: explanation(name, instructions) }),
        }
    }

    /// Attaches the program to the interface with this index in this network namespace: in the driver if the driver supports
    /// it, otherwise in the stack.
    pub fn attach_xdp(&self, interface: u32) -> io::Result<Link> {
        match self.attach(interface, DRIVER_MODE) {
            Ok(fd) => Ok(Link { _fd: fd, mode: XdpMode::Native }),
            Err(error) if may_work_in_the_stack(&error) => {
                let fd = self.attach(interface, SKB_MODE)?;
                Ok(Link { _fd: fd, mode: XdpMode::Generic })
            }
            Err(error) => Err(error),
        }
    }

    /// The program's result for this frame (`XDP_PASS` = 2, `XDP_REDIRECT` = 4), as if it arrived on receive queue 0. The frame
    /// is not sent anywhere. It must have an Ethernet header.
    pub fn run(&self, frame: &[u8]) -> io::Result<u32> {
        let mut run = TestRun {
            program: self.raw(),
            result: 0,
            size_in: sys::length(frame.len()),
            size_out: 0,
            data_in: sys::address(frame),
            data_out: 0,
            repeat: 1,
            duration: 0,
        };
        // SAFETY: the kernel reads only the bytes of the frame, and writes only to the structure.
        unsafe { sys::bpf(Command::ProgTestRun, &mut run)? };
        Ok(run.result)
    }

    fn attach(&self, interface: u32, flags: u32) -> io::Result<OwnedFd> {
        let mut link = CreateLink { program: self.raw(), interface, attach: ATTACH_XDP, flags };
        // SAFETY: the structure contains no addresses, and the command returns a descriptor.
        unsafe { sys::bpf_fd(Command::LinkCreate, &mut link) }
    }

    fn raw(&self) -> u32 {
        self.fd.as_raw_fd().cast_unsigned()
    }
}

impl Link {
    /// How the program is attached.
    pub fn mode(&self) -> XdpMode {
        self.mode
    }
}

/// Whether the error means that the driver has no XDP, or not for this MTU, these queues or these offloads.
fn may_work_in_the_stack(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE | libc::ENOMEM | libc::ENOSPC))
}

fn load(name: &str, instructions: &[Insn], log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut load = Load {
        kind: PROGRAM_TYPE_XDP,
        count: sys::length(instructions.len()),
        instructions: sys::address(instructions),
        license: sys::address(c"MIT".as_ptr()),
        log_level: u32::from(!log.is_empty()),
        log_size: sys::length(log.len()),
        log: if log.is_empty() { 0 } else { sys::address(log.as_mut_ptr()) },
        kernel_version: 0,
        flags: 0,
        name: sys::name(name),
        interface: 0,
        attach: ATTACH_XDP,
    };
    // SAFETY: instructions, licence and log are alive and have the given lengths, and the command returns a descriptor.
    unsafe { sys::bpf_fd(Command::ProgLoad, &mut load) }
}

/// Runs the verifier again with a log, and returns the end of that log.
fn explanation(name: &str, instructions: &[Insn]) -> Option<String> {
    let mut log = vec![0; LOG];
    load(name, instructions, &mut log).err()?;
    let text = log.split(|&byte| byte == 0).next().unwrap_or_default();
    let shown = &text[text.len().saturating_sub(SHOWN)..];
    (!shown.is_empty()).then(|| String::from_utf8_lossy(shown).trim().to_owned())
}
