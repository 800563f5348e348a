//! Opens as many connections as possible, uses each once and closes it. Has both ends.
//!
//! ```text
//!  connections serve PORT                        answers each connection's 64 bytes with 64 bytes, then closes it
//!  connections load ADDRESS:PORT SECONDS         prints {"connections_per_second": n, "failed": n}
//! ```
//!
//! The server closes first, so TIME_WAIT is on its side and the client's ports are free at once. Eight parallel clients keep
//! the path busy while one of them waits for an answer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;
const MESSAGE: [u8; 64] = [b'x'; 64];
const PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", port] => serve(port.parse().expect("a port")),
        ["load", target, seconds] => load(target.parse().expect("ADDRESS:PORT"), seconds.parse().expect("seconds")),
        _ => {
            eprintln!("usage: connections serve PORT | connections load ADDRESS:PORT SECONDS");
            ExitCode::from(2)
        }
    }
}

fn serve(port: u16) -> ExitCode {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a listening socket");
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| listener.incoming().flatten().for_each(|stream| drop(answer(stream))));
        }
    });
    ExitCode::SUCCESS
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut message = [0; MESSAGE.len()];
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut message)?;
    stream.write_all(&message)?;
    stream.shutdown(Shutdown::Write)
}

fn load(target: SocketAddr, seconds: f64) -> ExitCode {
    let (done, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    let until = begun + Duration::from_secs_f64(seconds);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while Instant::now() < until {
                    let count = if ask(target).is_ok() { &done } else { &failed };
                    count.fetch_add(1, Relaxed);
                }
            });
        }
    });
    let rate = Duration::from_nanos(done.load(Relaxed)).as_secs_f64() * 1e9 / begun.elapsed().as_secs_f64();
    println!("{{\"connections_per_second\": {rate:.1}, \"failed\": {}}}", failed.load(Relaxed));
    if done.load(Relaxed) == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn ask(target: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    stream.write_all(&MESSAGE)?;
    let mut answer = Vec::with_capacity(MESSAGE.len());
    stream.read_to_end(&mut answer)?;
    if answer == MESSAGE { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}
