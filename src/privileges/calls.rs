//! The system calls that each role makes: an allow-list per thread, enforced by seccomp(2).
//!
//! ```text
//!  role ─▶ groups of calls ─┬─▶ allowed
//!                           └─▶ any other: not carried out, EPERM, a line in the kernel's log (audit type 1326) with the
//!                               thread's name and the call's number
//! ```
//!
//! **A refused call fails; it does not end the process.** Nothing here makes one, so it is either an attack, which then achieves
//! nothing, or a library that does something new, which then reports an error. To end the process would let the attacker end
//! every connection, too.
//!
//! **Some calls fail with ENOSYS**, as on a kernel that does not have them: libc then takes an older one that a filter can look
//! into. `clone3` has its flags in memory; of `clone`, only the one that makes a thread is allowed.
//!
//! No list has: execve, fork, ptrace, bpf beyond changes of tables (but that of the thread that opens ports), mount, namespaces, modules, keys, perf, userfaultfd, other
//! processes' memory. Memory is never executable. The kernel remembers which calls a filter allows whatever their
//! arguments, so the calls of the packet path cost nothing measurable.

#![allow(unsafe_code, reason = "seccompiler's own seccomp(2) does not ask for refused calls to be logged")]

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use pollgate_control::threads::Role;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::Support;

/// What an argument of a call must be.
#[derive(Clone, Copy)]
enum Is {
    Equal(u64),
    /// These bits, of these.
    Bits {
        mask: u64,
        value: u64,
    },
}

/// A call, and what some of its arguments must be.
type Call = (c_long, &'static [(u8, Is)]);

const fn any(number: c_long) -> Call {
    (number, &[])
}

const fn equal(value: libc::c_int) -> Is {
    Is::Equal(bits(value))
}

/// An argument of 32 bits.
const fn bits(value: libc::c_int) -> u64 {
    value.cast_unsigned() as u64
}

/// Flags of a memory mapping: never executable.
const NO_CODE: Is = Is::Bits { mask: bits(libc::PROT_EXEC), value: 0 };

/// Flags of `clone` that make a thread, and those that would make something else.
const THREAD: u64 =
    bits(libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD);
const OTHERS: u64 =
    bits(libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_VFORK);
const A_THREAD: Is = Is::Bits { mask: THREAD | OTHERS, value: THREAD };

/// Names of memory regions, which allocators set.
const PR_SET_VMA: libc::c_int = 0x5356_4d41;

/// Every thread: memory, time, locks, descriptors that it has, signals to itself, and its end. A signal to the process is handled in
/// any thread, and the handler writes to a socket; so do threads that wake each other.
const EVERY: &[Call] = &[
    any(libc::SYS_read),
    any(libc::SYS_readv),
    any(libc::SYS_write),
    any(libc::SYS_writev),
    any(libc::SYS_sendto),
    any(libc::SYS_recvfrom),
    any(libc::SYS_close),
    any(libc::SYS_lseek),
    any(libc::SYS_fstat),
    any(libc::SYS_fcntl),
    any(libc::SYS_futex),
    (libc::SYS_mmap, &[(2, NO_CODE)]),
    (libc::SYS_mprotect, &[(2, NO_CODE)]),
    any(libc::SYS_munmap),
    any(libc::SYS_mremap),
    any(libc::SYS_madvise),
    any(libc::SYS_brk),
    any(libc::SYS_membarrier),
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_sigaltstack),
    any(libc::SYS_restart_syscall),
    any(libc::SYS_getpid),
    any(libc::SYS_gettid),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
    any(libc::SYS_sched_yield),
    any(libc::SYS_sched_getaffinity),
    any(libc::SYS_getcpu),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_clock_getres),
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_nanosleep),
    any(libc::SYS_gettimeofday),
    any(libc::SYS_getrandom),
    any(libc::SYS_rseq),
    any(libc::SYS_set_robust_list),
    (libc::SYS_prctl, &[(0, equal(libc::PR_SET_NAME))]),
    (libc::SYS_prctl, &[(0, equal(libc::PR_GET_NAME))]),
    (libc::SYS_prctl, &[(0, equal(PR_SET_VMA))]),
    any(libc::SYS_ppoll),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_epoll_ctl),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_time),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_poll),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_epoll_wait),
];

/// Threads that start others.
const THREADS: &[Call] = &[(libc::SYS_clone, &[(0, A_THREAD)]), any(libc::SYS_clone3)];

/// A runtime that is made on the thread itself.
const RUNTIME: &[Call] = &[any(libc::SYS_epoll_create1), any(libc::SYS_eventfd2), any(libc::SYS_dup3)];

/// Sockets that there are.
const CONNECTED: &[Call] = &[
    any(libc::SYS_sendmsg),
    any(libc::SYS_recvmsg),
    any(libc::SYS_shutdown),
    any(libc::SYS_getsockopt),
    any(libc::SYS_setsockopt),
    any(libc::SYS_getsockname),
    any(libc::SYS_getpeername),
    (libc::SYS_ioctl, &[(1, equal(FIONBIO))]),
];

/// Clients that come in.
const ACCEPTING: &[Call] = &[any(libc::SYS_accept4)];

/// Sockets of IPv4 and IPv6 that are made, but no raw ones.
const INTERNET: &[Call] = &[
    (libc::SYS_socket, &[(0, equal(libc::AF_INET)), (1, STREAM)]),
    (libc::SYS_socket, &[(0, equal(libc::AF_INET)), (1, DATAGRAM)]),
    (libc::SYS_socket, &[(0, equal(libc::AF_INET6)), (1, STREAM)]),
    (libc::SYS_socket, &[(0, equal(libc::AF_INET6)), (1, DATAGRAM)]),
    any(libc::SYS_bind),
];

/// Listeners of local services.
const LISTENING: &[Call] = &[any(libc::SYS_listen)];

/// Queries to other DNS servers.
const QUERYING: &[Call] = &[any(libc::SYS_connect)];

/// Without the flags that may be among them.
const TYPE: u64 = bits(!(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK));
const STREAM: Is = Is::Bits { mask: TYPE, value: bits(libc::SOCK_STREAM) };
const DATAGRAM: Is = Is::Bits { mask: TYPE, value: bits(libc::SOCK_DGRAM) };

/// rtnetlink.
const NETLINK: &[Call] =
    &[(libc::SYS_socket, &[(0, equal(libc::AF_NETLINK)), (2, equal(libc::NETLINK_ROUTE))]), any(libc::SYS_bind)];

/// Messages to the service manager. sd_notify(3) connects a socket to the manager's; a filter cannot see to which.
const NOTIFYING: &[Call] = &[(libc::SYS_socket, &[(0, equal(libc::AF_UNIX)), (1, DATAGRAM)]), any(libc::SYS_connect)];

/// Files and directories, which Landlock limits to those of the role.
const FILES: &[Call] = &[
    any(libc::SYS_openat),
    any(libc::SYS_newfstatat),
    any(libc::SYS_statx),
    any(libc::SYS_readlinkat),
    any(libc::SYS_getdents64),
    any(libc::SYS_getcwd),
    // Whose file is it?
    any(libc::SYS_getuid),
    any(libc::SYS_geteuid),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_open),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_stat),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_lstat),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_readlink),
];

/// The state file.
const STORING: &[Call] = &[
    any(libc::SYS_pread64),
    any(libc::SYS_pwrite64),
    any(libc::SYS_fsync),
    any(libc::SYS_fdatasync),
    any(libc::SYS_ftruncate),
    any(libc::SYS_fallocate),
    any(libc::SYS_flock),
];

/// The socket's file, which goes when the gateway stops.
const UNLINKING: &[Call] = &[
    any(libc::SYS_unlinkat),
    any(libc::SYS_newfstatat),
    any(libc::SYS_statx),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_unlink),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_lstat),
];

/// Files that are replaced by new ones.
const REPLACING: &[Call] = &[
    any(libc::SYS_fsync),
    any(libc::SYS_fchmod),
    any(libc::SYS_renameat),
    any(libc::SYS_renameat2),
    any(libc::SYS_unlinkat),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_rename),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_unlink),
];

const WATCHING: &[Call] = &[any(libc::SYS_inotify_add_watch)];

/// Questions about interfaces (netdevice(7)), and none of the requests that change one but ethtool's, which are one number.
const ASKING: &[Call] = &[
    (libc::SYS_socket, &[(0, equal(libc::AF_INET)), (1, DATAGRAM)]),
    (libc::SYS_ioctl, &[(1, Is::Equal(libc::SIOCGIFNAME))]),
    (libc::SYS_ioctl, &[(1, Is::Equal(libc::SIOCGIFCONF))]),
    (libc::SYS_ioctl, &[(1, Is::Equal(libc::SIOCGIFFLAGS))]),
    (libc::SYS_ioctl, &[(1, Is::Equal(libc::SIOCGIFADDR))]),
    (libc::SYS_ioctl, &[(1, Is::Equal(libc::SIOCGIFMTU))]),
    (libc::SYS_ioctl, &[(1, Is::Equal(libc::SIOCGIFHWADDR))]),
    (libc::SYS_ioctl, &[(1, Is::Equal(libc::SIOCGIFINDEX))]),
    (libc::SYS_ioctl, &[(1, Is::Equal(SIOCETHTOOL))]),
];

/// Frames in and out by sockets that there are.
const POLLING: &[Call] = &[
    any(libc::SYS_sendmmsg),
    any(libc::SYS_recvmmsg),
    any(libc::SYS_sched_setaffinity),
    // Whether the interface is up.
    (libc::SYS_ioctl, &[(1, Is::Equal(libc::SIOCGIFFLAGS))]),
];

const URING: &[Call] = &[any(libc::SYS_io_uring_enter), any(libc::SYS_io_uring_register)];

/// Sockets that become ports, and questions about the machine before that.
const OPENING: &[Call] = &[
    (libc::SYS_socket, &[(0, equal(libc::AF_PACKET))]),
    (libc::SYS_socket, &[(0, equal(libc::AF_NETLINK)), (2, equal(libc::NETLINK_GENERIC))]),
    any(libc::SYS_capget),
    any(libc::SYS_prlimit64),
    any(libc::SYS_getegid),
    any(libc::SYS_getgroups),
];

/// An io_uring, which its worker uses.
const MAKING_URING: &[Call] = &[any(libc::SYS_io_uring_setup), any(libc::SYS_io_uring_register)];

/// AF_XDP sockets, and the programs that steer frames to them.
const MAKING_XDP: &[Call] =
    &[(libc::SYS_socket, &[(0, equal(libc::AF_XDP))]), any(libc::SYS_bpf), any(libc::SYS_epoll_create1)];

/// Changes of the steering programs' tables (bpf(2): BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM).
const TABLES: &[Call] =
    &[(libc::SYS_bpf, &[(0, equal(1))]), (libc::SYS_bpf, &[(0, equal(2))]), (libc::SYS_bpf, &[(0, equal(3))])];

/// ethtool's requests (linux/sockios.h).
const SIOCETHTOOL: u64 = 0x8946;

/// The request that makes descriptors non-blocking.
const FIONBIO: libc::c_int = 0x5421;

/// What ports there may be: it decides on calls that only some need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) uring: bool,
    pub(super) xdp: bool,
}

/// The calls of a role.
fn calls(role: Role, ports: Ports) -> Vec<&'static [Call]> {
    let mut groups = vec![EVERY];
    match role {
        // It removes the host pair by a netlink socket that there is, and reads files again if it is asked to.
        Role::Main => groups.extend([CONNECTED, NOTIFYING, FILES, REPLACING]),
        Role::Log => {}
        Role::Worker => {
            groups.extend([CONNECTED, POLLING]);
            groups.extend(ports.uring.then_some(URING));
        }
        Role::Control => {
            groups.extend([THREADS, CONNECTED, INTERNET, LISTENING]);
            groups.extend(ports.xdp.then_some(TABLES));
        }
        Role::Api => groups.extend([THREADS, CONNECTED, ACCEPTING, UNLINKING]),
        Role::Disk => groups.extend([THREADS, FILES, STORING]),
        Role::Manifests => groups.extend([FILES, WATCHING]),
        Role::Network => groups.extend([RUNTIME, CONNECTED, NETLINK]),
        Role::Announcer => groups.push(CONNECTED),
        Role::Ports => {
            // It makes the host pair again.
            groups.extend([RUNTIME, CONNECTED, NETLINK, ASKING, FILES, OPENING]);
            groups.extend(ports.uring.then_some(MAKING_URING));
            groups.extend(ports.xdp.then_some(MAKING_XDP));
        }
        Role::Dns => groups.extend([CONNECTED, ACCEPTING, INTERNET, QUERYING]),
        Role::Health | Role::Metrics => groups.extend([CONNECTED, ACCEPTING]),
        Role::Watch => groups.extend([CONNECTED, NETLINK, ASKING, NOTIFYING, FILES]),
    }
    groups
}

/// The two filters of a role: what is allowed, and what does not exist.
fn filters(role: Role, ports: Ports) -> Result<[BpfProgram; 2], seccompiler::Error> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    let mut always = Vec::new();
    for (number, conditions) in calls(role, ports).into_iter().flatten() {
        let chain = rules.entry(*number).or_default();
        match conditions {
            [] => always.push(*number),
            conditions => chain.push(rule(conditions)?),
        }
    }
    // A call without conditions in one group is allowed, whatever another group says.
    for number in always {
        rules.insert(number, Vec::new());
    }
    // A thread ends the process by a signal to itself.
    let process = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![rule(&[(0, Is::Equal(process))])?]);
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let allowed = compiled(rules, refused, SeccompAction::Allow)?;
    let missing = compiled([(libc::SYS_clone3, Vec::new())].into(), SeccompAction::Allow, absent)?;
    Ok([missing, allowed])
}

fn rule(conditions: &[(u8, Is)]) -> Result<SeccompRule, seccompiler::Error> {
    let condition = |&(argument, is): &(u8, Is)| match is {
        Is::Equal(value) => SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value),
        Is::Bits { mask, value } => {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
        }
    };
    let conditions: Result<Vec<_>, _> = conditions.iter().map(condition).collect();
    Ok(SeccompRule::new(conditions?)?)
}

fn compiled(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    found: SeccompAction,
) -> Result<BpfProgram, seccompiler::Error> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, otherwise, found, architecture)?.try_into()?)
}

/// Whether threads can have filters that refuse calls.
pub(super) fn support() -> Support {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads four bytes of the action, which is alive.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    if result == 0 {
        return Support::Present;
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EINVAL | libc::EOPNOTSUPP) => Support::Absent(format!("no seccomp filters: {error}")),
        _ => Support::Forbidden(format!("seccomp filters: {error}")),
    }
}

/// Puts the filters of a role on the calling thread, for good. It needs no_new_privs.
pub(super) fn limit(role: Role, ports: Ports) -> io::Result<()> {
    let [missing, allowed] = filters(role, ports).map_err(io::Error::other)?;
    // libc expects ENOSYS; only refused calls are worth a line in the kernel's log.
    install(&missing, 0)?;
    install(&allowed, libc::SECCOMP_FILTER_FLAG_LOG)
}

fn install(filter: &BpfProgram, flags: libc::c_ulong) -> io::Result<()> {
    let length = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: the kernel reads the program and the `length` instructions that it points to, all alive. The two types of an
    // instruction are the same structure of linux/filter.h.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs on a thread with the filters of a role.
    fn within<R: Send + 'static>(role: Role, work: impl FnOnce() -> R + Send + 'static) -> R {
        let narrowed = move || {
            rustix::thread::set_no_new_privs(true).expect("allowed");
            limit(role, Ports { uring: false, xdp: true }).expect("limited");
            work()
        };
        std::thread::spawn(narrowed).join().expect("no panic")
    }

    /// The error of a system call with these arguments.
    fn errno(number: c_long, arguments: [c_long; 3]) -> Option<i32> {
        let [first, second, third] = arguments;
        // SAFETY: every call of these tests is one that takes no pointers, or is given null.
        let result = unsafe { libc::syscall(number, first, second, third) };
        (result < 0).then(|| io::Error::last_os_error().raw_os_error()).flatten()
    }

    #[test]
    fn every_role_has_filters_that_the_kernel_takes() {
        for role in Role::ALL {
            assert_eq!(within(role, || errno(libc::SYS_ptrace, [0, 0, 0])), Some(libc::EPERM), "{}", role.name());
        }
    }

    #[test]
    fn no_role_runs_programs_or_opens_raw_sockets_or_loads_ebpf() {
        let packet = [libc::AF_PACKET, libc::SOCK_RAW, 0].map(c_long::from);
        let raw = [libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP].map(c_long::from);
        const MAP_CREATE: c_long = 0;
        const PROG_LOAD: c_long = 5;
        for role in Role::ALL {
            let refused = within(role, move || {
                [
                    (libc::SYS_execve, [0, 0, 0]),
                    (libc::SYS_execveat, [0, 0, 0]),
                    (libc::SYS_socket, raw),
                    (libc::SYS_clone, [c_long::from(libc::SIGCHLD), 0, 0]),
                    (libc::SYS_mount, [0, 0, 0]),
                    (libc::SYS_unshare, [0, 0, 0]),
                    (libc::SYS_setns, [-1, 0, 0]),
                    (libc::SYS_finit_module, [-1, 0, 0]),
                    (libc::SYS_keyctl, [0, 0, 0]),
                    (libc::SYS_io_uring_setup, [0, 0, 0]),
                    (libc::SYS_process_vm_writev, [0, 0, 0]),
                    (libc::SYS_pidfd_open, [1, 0, 0]),
                    (libc::SYS_userfaultfd, [0, 0, 0]),
                    (libc::SYS_perf_event_open, [0, 0, 0]),
                    (libc::SYS_tgkill, [1, 1, 0]),
                    (libc::SYS_kill, [1, 0, 0]),
                    (libc::SYS_mprotect, [0, 0, c_long::from(libc::PROT_READ | libc::PROT_EXEC)]),
                    (libc::SYS_setuid, [0, 0, 0]),
                ]
                .map(|(number, arguments)| (number, errno(number, arguments)))
            });
            for (number, error) in refused {
                assert_eq!(error, Some(libc::EPERM), "{}: system call {number}", role.name());
            }
            // What only the thread does that opens ports.
            let opening = within(role, move || {
                [
                    (libc::SYS_socket, packet),
                    (libc::SYS_socket, [libc::AF_XDP, libc::SOCK_RAW, 0].map(c_long::from)),
                    (libc::SYS_bpf, [MAP_CREATE, 0, 0]),
                    (libc::SYS_bpf, [PROG_LOAD, 0, 0]),
                ]
                .map(|(number, arguments)| (number, errno(number, arguments)))
            });
            for (number, error) in opening {
                let is_refused = error == Some(libc::EPERM);
                assert!(is_refused || role == Role::Ports, "{}: system call {number}", role.name());
            }
        }
    }

    #[test]
    fn files_and_sockets_are_for_those_that_need_them() {
        let opens = |role| within(role, || errno(libc::SYS_openat, [-1, 0, 0])) != Some(libc::EPERM);
        let openers: Vec<Role> = Role::ALL.into_iter().filter(|role| opens(*role)).collect();
        assert_eq!(openers, [Role::Main, Role::Ports, Role::Disk, Role::Manifests, Role::Watch]);
        let stream = [libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0].map(c_long::from);
        let makes = |role| within(role, move || errno(libc::SYS_socket, stream)).is_none();
        let makers: Vec<Role> = Role::ALL.into_iter().filter(|role| makes(*role)).collect();
        assert_eq!(makers, [Role::Control, Role::Dns]);
        let may = |number| {
            let is_allowed = |role: &Role| within(*role, move || errno(number, [-1, 0, 0])) != Some(libc::EPERM);
            Role::ALL.into_iter().filter(is_allowed).collect::<Vec<Role>>()
        };
        assert_eq!(may(libc::SYS_connect), [Role::Main, Role::Dns, Role::Watch], "sd_notify, and other DNS servers");
        assert_eq!(may(libc::SYS_listen), [Role::Control], "health checks and DNS over TCP");
        const MAP_UPDATE: c_long = 2;
        let changes = |role| within(role, || errno(libc::SYS_bpf, [MAP_UPDATE, 0, 0])) != Some(libc::EPERM);
        let changers: Vec<Role> = Role::ALL.into_iter().filter(|role| changes(*role)).collect();
        assert_eq!(changers, [Role::Control, Role::Ports], "tables that it has, or makes");
    }

    #[test]
    fn threads_can_be_started_where_that_is_needed_and_panics_print() {
        let joined = within(Role::Api, || std::thread::spawn(|| 7).join().expect("no panic"));
        assert_eq!(joined, 7);
        let inner = within(Role::Worker, || std::thread::Builder::new().spawn(|| {}).map(drop).map_err(|e| e.kind()));
        assert_eq!(inner, Err(io::ErrorKind::PermissionDenied));
        let panicked = within(Role::Worker, || std::panic::catch_unwind(|| panic!("as a test")).is_err());
        assert!(panicked);
        let memory = within(Role::Worker, || vec![1u8; 64 << 20].iter().map(|byte| u64::from(*byte)).sum::<u64>());
        assert_eq!(memory, 64 << 20);
    }
}
