//! What only an io_uring does.

use std::thread;

use pollgate_common::net::PortId;
use pollgate_dataplane::port::packet::{OpenError, PacketOptions};
use pollgate_dataplane::port::uring::UringPort;
use pollgate_dataplane::port::{Frame, Port};

use crate::shared::harness::tests;
use crate::shared::needs::Need::{IoUring, Lab};
use crate::socket_ports::support::*;

tests! {
    [Lab, IoUring] =>
        without_buffers_frames_wait_and_what_the_queue_cannot_hold_is_counted,
        it_is_opened_on_one_thread_and_polled_on_another;
    [Lab] =>
        where_io_uring_is_forbidden_the_error_says_what_to_do;
}

/// Buffers of a port.
const BUFFERS: usize = 256;

fn without_buffers_frames_wait_and_what_the_queue_cannot_hold_is_counted() {
    const MANY: usize = 200;
    const ROUNDS: usize = 400;
    let cable = Cable::new();
    let mut port = cable.open::<UringPort>(64);
    let many: Vec<Vec<u8>> = (0..MANY).map(|n| experimental(u8::try_from(n).expect("small"), 60)).collect();
    inject::<UringPort>(&cable, &many);
    inject::<UringPort>(&cable, &many);
    let mut kept = receive(&mut port, |frames| frames.len() == BUFFERS);
    (0..10).for_each(|_| port.rx(NOW, 64, &mut kept));
    assert_eq!(kept.len(), BUFFERS, "no more than there are buffers");
    let numbers: Vec<u8> = kept.iter().filter(|f| is_experimental(f)).map(|f| f.bytes()[14]).collect();
    assert!(numbers.chunk_by(|a, b| a <= b).count() <= 2, "in the order they were sent: {numbers:?}");
    // More than the queue holds, in one thread: nobody takes any meanwhile.
    (0..ROUNDS).for_each(|_| inject::<UringPort>(&cable, &many));
    let mut ours = numbers.len();
    release(&mut port, kept);
    let mut frames: Vec<Frame> = Vec::new();
    let mut quiet = 0;
    while quiet < 100 {
        port.rx(NOW, 64, &mut frames);
        quiet = if frames.is_empty() { quiet + 1 } else { 0 };
        ours += frames.iter().filter(|f| is_experimental(f)).count();
        release(&mut port, std::mem::take(&mut frames));
    }
    let lost = missed(&mut port);
    let sent = (2 + ROUNDS) * MANY;
    println!("{ours} of {sent} received, {lost} counted");
    assert!(lost > 0, "the queue has a bound");
    // A few frames of the kernel's own (IPv6 neighbours) may be among the lost.
    let accounted = ours + usize::try_from(lost).expect("small");
    assert!((sent..sent + 20).contains(&accounted), "{ours} received and {lost} counted of {sent}");
    assert_eq!(missed(&mut port), 0, "counted once");
    inject::<UringPort>(&cable, &many[..1]);
    let frames = receive(&mut port, |frames| frames.iter().any(is_experimental));
    release(&mut port, frames);
}

fn it_is_opened_on_one_thread_and_polled_on_another() {
    let cable = Cable::new();
    let mut port = cable.open::<UringPort>(64);
    // Before anybody polls: it waits on the socket's queue.
    inject::<UringPort>(&cable, &[experimental(1, 60)]);
    let mut port = thread::spawn(move || {
        let frames = receive(&mut port, |frames| frames.iter().any(is_experimental));
        release(&mut port, frames);
        send_raw(&mut port, &experimental(2, 60));
        assert!(!port.is_sending());
        port
    })
    .join()
    .expect("the worker");
    // The ring is that thread's: another gets nothing, and sends nothing, and says so.
    inject::<UringPort>(&cable, &[experimental(3, 60)]);
    let mut frames = Vec::new();
    (0..10).for_each(|_| port.rx(NOW, 64, &mut frames));
    assert!(frames.is_empty());
}

/// Forbids io_uring to this thread, as kernel.io_uring_disabled does to a host: EPERM from io_uring_setup(2).
fn forbid_io_uring() {
    let code = |bits: u32| u16::try_from(bits).expect("a code");
    let setup = u32::try_from(libc::SYS_io_uring_setup).expect("a number");
    let denied = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let (load, jump) = (code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), code(libc::BPF_JMP | libc::BPF_JEQ));
    let mut rules = [
        libc::sock_filter { code: load, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: jump, jt: 0, jf: 1, k: setup },
        libc::sock_filter { code: code(libc::BPF_RET), jt: 0, jf: 0, k: denied },
        libc::sock_filter { code: code(libc::BPF_RET), jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let program = libc::sock_fprog { len: 4, filter: rules.as_mut_ptr() };
    // SAFETY: four live instructions, which the kernel copies; the filter is this thread's alone.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    assert_eq!(result, 0, "a seccomp filter");
}

fn where_io_uring_is_forbidden_the_error_says_what_to_do() {
    let cable = Cable::new();
    let options = PacketOptions {
        interface: "eth0",
        port: PortId(0),
        worker: 0,
        workers: 1,
        group: None,
        fanout: None,
        ring_frames: 64,
    };
    let opened = cable.right.run(|| {
        thread::scope(|scope| {
            let forbidden = scope.spawn(|| {
                forbid_io_uring();
                UringPort::open(&options)
            });
            forbidden.join().expect("no panic")
        })
    });
    let error = opened.err().expect("refused");
    assert!(matches!(error, OpenError::NoUring { .. }), "{error}");
    let told = error.to_string();
    for part in ["eth0", "Operation not permitted", "kernel.io_uring_disabled", "interfaces[].backend to packet"] {
        assert!(told.contains(part), "{told}");
    }
}
