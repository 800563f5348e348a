//! What the machine is, apart from its interfaces: CPUs, memory, and what the kernel permits this process.
//!
//! ```text
//!  ROOT/sys/devices/system/cpu, ROOT/sys/kernel/mm, ROOT/proc ──▶ Machine
//! ```
//!
//! None of these files belongs to a network namespace. What a kernel does not report is `None` or empty, never a guess.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{getegid, getgroups};

use super::{bpf, cpulist, query};

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The kernel's version, major and minor.
    pub kernel: (u32, u32),
    /// Every CPU that is online.
    pub cpus: Vec<Cpu>,
    /// CPUs that the scheduler keeps free (`isolcpus=`).
    pub isolated: Vec<usize>,
    /// Whether the CPU has instructions for AES, which hashing uses.
    pub has_aes: bool,
    /// The chosen word of transparent_hugepage/enabled.
    pub transparent_huge_pages: Option<String>,
    /// Huge pages set aside, and those of them that are free.
    pub huge_pages: (u64, u64),
    /// The largest socket buffer this process may request; `None`: unlimited.
    pub receive_buffer_limit: Option<u64>,
    /// Whether it may use eBPF with AF_XDP; if not, why.
    pub bpf: Result<(), String>,
    /// Whether it may use io_uring; if not, why.
    pub io_uring: Result<(), String>,
}

/// A CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub number: usize,
    /// How its clock is governed.
    pub governor: Option<String>,
    /// The CPUs that are threads of the same core, itself included.
    pub core: Vec<usize>,
    /// Its NUMA node.
    pub node: Option<usize>,
}

impl Machine {
    /// Reads the facts of this machine and its kernel. `locked_memory`: how much AF_XDP would have to lock, in bytes.
    pub fn ask(locked_memory: u64) -> Machine {
        let files = Files(PathBuf::from("/"));
        Machine {
            kernel: query::kernel(),
            cpus: files.cpus(),
            isolated: files.list("sys/devices/system/cpu/isolated"),
            has_aes: files.has_aes(),
            transparent_huge_pages: files.transparent_huge_pages(),
            huge_pages: files.huge_pages(),
            receive_buffer_limit: files.receive_buffer_limit(),
            bpf: bpf::permitted(locked_memory),
            io_uring: files.io_uring(),
        }
    }

    /// The CPU of that number.
    pub fn cpu(&self, number: usize) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.number == number)
    }
}

/// Files under a root directory, which in tests is not `/`.
struct Files(PathBuf);

impl Files {
    fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.0.join(path)).ok().map(|text| text.trim().to_owned())
    }

    fn list(&self, path: impl AsRef<Path>) -> Vec<usize> {
        self.text(path).map_or_else(Vec::new, |text| cpulist::list(&text))
    }

    fn cpus(&self) -> Vec<Cpu> {
        self.list("sys/devices/system/cpu/online").into_iter().map(|number| self.cpu(number)).collect()
    }

    fn cpu(&self, number: usize) -> Cpu {
        let directory = PathBuf::from(format!("sys/devices/system/cpu/cpu{number}"));
        let names =
            fs::read_dir(self.0.join(&directory)).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let node = names.filter_map(|name| name.to_str()?.strip_prefix("node")?.parse().ok()).next();
        Cpu {
            number,
            governor: self.text(directory.join("cpufreq/scaling_governor")),
            core: self.list(directory.join("topology/thread_siblings_list")),
            node,
        }
    }

    /// `flags` on x86, `Features` on Arm.
    fn has_aes(&self) -> bool {
        let text = self.text("proc/cpuinfo").unwrap_or_default();
        let mut flags = text.lines().filter(|line| line.starts_with("flags") || line.starts_with("Features"));
        flags.any(|line| line.split_whitespace().any(|flag| flag == "aes"))
    }

    /// `always [madvise] never`: the one in brackets.
    fn transparent_huge_pages(&self) -> Option<String> {
        let text = self.text("sys/kernel/mm/transparent_hugepage/enabled")?;
        let (_, rest) = text.split_once('[')?;
        rest.split_once(']').map(|(word, _)| word.to_owned())
    }

    fn huge_pages(&self) -> (u64, u64) {
        let text = self.text("proc/meminfo").unwrap_or_default();
        let number = |key: &str| {
            let rest = text.lines().find_map(|line| line.strip_prefix(key));
            rest.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
        };
        (number("HugePages_Total:"), number("HugePages_Free:"))
    }

    /// Root of the whole machine may go beyond the limit (SO_RCVBUFFORCE), root of a user namespace may not.
    fn receive_buffer_limit(&self) -> Option<u64> {
        let whole = |map: String| map.split_whitespace().eq(["0", "0", "4294967295"]);
        if self.text("proc/self/uid_map").is_none_or(whole) {
            return None;
        }
        self.text("proc/sys/net/core/rmem_max")?.parse().ok()
    }

    /// The sysctl came with Linux 6.6; before, who has the system call may use it. At 1 CAP_SYS_ADMIN would do, but a gateway
    /// gives that up.
    fn io_uring(&self) -> Result<(), String> {
        match self.text("proc/sys/kernel/io_uring_disabled").as_deref() {
            None | Some("0") => Ok(()),
            Some("1") if self.is_in_uring_group() => Ok(()),
            Some(value) => {
                Err(format!("the sysctl kernel.io_uring_disabled is {value}: sysctl -w kernel.io_uring_disabled=0"))
            }
        }
    }

    fn is_in_uring_group(&self) -> bool {
        let group = self.text("proc/sys/kernel/io_uring_group").and_then(|text| text.parse::<u32>().ok());
        let own = [getegid()].into_iter().chain(getgroups().unwrap_or_default());
        group.is_some_and(|group| own.into_iter().any(|own| own.as_raw() == group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root directory with these files.
    fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, Files) {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            fs::write(path, text).expect("a file");
        }
        let files = Files(root.path().to_owned());
        (root, files)
    }

    #[test]
    fn cpus_are_told_with_governor_core_and_node() {
        let (_root, files) = root(&[
            ("sys/devices/system/cpu/online", "0-1\n"),
            ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0-1\n"),
            ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n"),
            ("sys/devices/system/cpu/cpu1/node3/cpulist", "0-1\n"),
        ]);
        let told = files.cpus();
        assert_eq!(told[0], Cpu { number: 0, core: vec![0, 1], ..Cpu::default() });
        let governor = Some("powersave".to_owned());
        assert_eq!(told[1], Cpu { number: 1, governor, core: Vec::new(), node: Some(3) });
    }

    #[test]
    fn memory_and_instructions() {
        let (_root, files) = root(&[
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("proc/meminfo", "MemTotal:  1 kB\nHugePages_Total:      64\nHugePages_Free:       60\n"),
            ("proc/cpuinfo", "processor : 0\nflags\t\t: fpu sse2 aes avx2\n"),
        ]);
        assert_eq!(files.transparent_huge_pages().as_deref(), Some("madvise"));
        assert_eq!(files.huge_pages(), (64, 60));
        assert!(files.has_aes());
        let (_root, bare) = root(&[("proc/cpuinfo", "flags : fpu vaes\n")]);
        assert_eq!((bare.transparent_huge_pages(), bare.huge_pages(), bare.has_aes()), (None, (0, 0), false));
    }

    #[test]
    fn limits_hold_where_the_kernel_says_so() {
        let (_root, whole) = root(&[("proc/self/uid_map", "  0 0 4294967295\n"), ("proc/sys/net/core/rmem_max", "9")]);
        assert_eq!(whole.receive_buffer_limit(), None, "root of the machine");
        let (_root, inside) = root(&[
            ("proc/self/uid_map", "  0 1000 1\n"),
            ("proc/sys/net/core/rmem_max", "212992\n"),
            ("proc/sys/kernel/io_uring_disabled", "2\n"),
        ]);
        assert_eq!(inside.receive_buffer_limit(), Some(212_992));
        assert_eq!(whole.io_uring(), Ok(()), "no such sysctl");
        let group = getegid().as_raw().to_string();
        let limited = |group: &str| {
            let (_root, files) =
                root(&[("proc/sys/kernel/io_uring_disabled", "1\n"), ("proc/sys/kernel/io_uring_group", group)]);
            files.io_uring().is_ok()
        };
        assert!(limited(&group) && !limited("-1"), "a member of the group may use it");
        assert_eq!(
            inside.io_uring().expect_err("switched off"),
            "the sysctl kernel.io_uring_disabled is 2: sysctl -w kernel.io_uring_disabled=0"
        );
    }

    #[test]
    fn this_machine_has_cpus_and_a_kernel() {
        let machine = Machine::ask(0);
        assert!(!machine.cpus.is_empty() && machine.kernel >= (4, 0), "{machine:?}");
    }
}
