//! A port over capture files in virtual time, and the reader and writer of these files.
//!
//! Reads classic pcap (µs or ns, either byte order) and pcapng (section, interface, enhanced and simple packet blocks);
//! writes classic pcap with µs. Formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng. The owner of the virtual clock
//! gives the port the frames that are due, and collects the sent frames, which have the time of the poll.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crossbeam::queue::SegQueue;
use pollgate_common::net::PortId;
use pollgate_common::time::Instant;

use super::lend::Lender;
use super::{Frame, Offload, Port, Returned, Sent};

/// One captured frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Time in nanoseconds since 1970.
    pub time: Instant,
    /// The frame from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// Frames between a port and its driver, in order.
pub type Track = Arc<SegQueue<Record>>;

/// A port between two queues of captured frames.
pub struct PcapPort {
    id: PortId,
    input: Track,
    output: Track,
    lender: Lender,
}

impl PcapPort {
    /// A port with number `id` in its worker. It receives from `input` and sends to `output`.
    pub fn new(id: PortId, input: Track, output: Track) -> PcapPort {
        PcapPort { id, input, output, lender: Lender::default() }
    }
}

impl Port for PcapPort {
    fn rx(&mut self, _now: Instant, room: usize, into: &mut Vec<Frame>) {
        let records = std::iter::from_fn(|| self.input.pop()).take(room);
        into.extend(records.map(|record| self.lender.lend(&record.bytes, Offload::default(), self.id)));
    }

    fn tx(&mut self, now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        let mut sent = Sent::default();
        for frame in batch.drain(..) {
            sent.frames += 1;
            sent.bytes += frame.len() as u64;
            self.output.push(Record { time: now, bytes: frame.bytes().to_vec() });
            back.push(Returned { frame, dropped: None });
        }
        sent
    }

    fn release(&mut self, frame: Frame) {
        self.lender.take_back(&frame);
    }

    fn is_idle(&self) -> bool {
        self.lender.out() == 0
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Why a capture file cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PcapError {
    /// Not a capture file.
    #[error("not a capture file: it does not start with a pcap or pcapng magic number")]
    NotACapture,
    /// The file ends inside a header or packet.
    #[error("byte {0}: the file ends inside a header or packet")]
    CutOff(usize),
    /// Not Ethernet.
    #[error("link type {0}: only Ethernet (1) can be replayed")]
    LinkType(u16),
    /// A pcapng block contradicts itself or refers to an interface without a description.
    #[error("byte {0}: the pcapng block is inconsistent")]
    Block(usize),
}

const MICRO: u32 = 0xa1b2_c3d4;
const NANO: u32 = 0xa1b2_3c4d;
const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;

/// All frames of a capture file.
pub fn read(file: &[u8]) -> Result<Vec<Record>, PcapError> {
    let magic = Bytes { file, big: false }.u32(0).map_err(|_| PcapError::NotACapture)?;
    match (magic, magic.swap_bytes()) {
        (MICRO, _) => classic(Bytes { file, big: false }, 1000),
        (NANO, _) => classic(Bytes { file, big: false }, 1),
        (_, MICRO) => classic(Bytes { file, big: true }, 1000),
        (_, NANO) => classic(Bytes { file, big: true }, 1),
        (SECTION, _) => blocks(file),
        _ => Err(PcapError::NotACapture),
    }
}

/// Reads numbers in the file's byte order.
#[derive(Clone, Copy)]
struct Bytes<'a> {
    file: &'a [u8],
    big: bool,
}

impl<'a> Bytes<'a> {
    fn slice(&self, at: usize, len: usize) -> Result<&'a [u8], PcapError> {
        at.checked_add(len).and_then(|end| self.file.get(at..end)).ok_or(PcapError::CutOff(at))
    }

    fn u32(&self, at: usize) -> Result<u32, PcapError> {
        let bytes = <[u8; 4]>::try_from(self.slice(at, 4)?).map_err(|_| PcapError::CutOff(at))?;
        Ok(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn u16(&self, at: usize) -> Result<u16, PcapError> {
        let bytes = <[u8; 2]>::try_from(self.slice(at, 2)?).map_err(|_| PcapError::CutOff(at))?;
        Ok(if self.big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn len(&self, at: usize) -> Result<usize, PcapError> {
        usize::try_from(self.u32(at)?).map_err(|_| PcapError::CutOff(at))
    }
}

fn classic(bytes: Bytes<'_>, unit: u64) -> Result<Vec<Record>, PcapError> {
    ethernet(u16::try_from(bytes.u32(20)? & 0xffff).unwrap_or(u16::MAX))?;
    let (mut records, mut at) = (Vec::new(), 24);
    while at < bytes.file.len() {
        let seconds = u64::from(bytes.u32(at)?);
        let fraction = u64::from(bytes.u32(at + 4)?) * unit;
        let len = bytes.len(at + 8)?;
        bytes.u32(at + 12)?;
        let time = Instant(seconds * 1_000_000_000 + fraction);
        records.push(Record { time, bytes: bytes.slice(at + 16, len)?.to_vec() });
        at += 16 + len;
    }
    Ok(records)
}

fn ethernet(link_type: u16) -> Result<(), PcapError> {
    if link_type == ETHERNET { Ok(()) } else { Err(PcapError::LinkType(link_type)) }
}

/// One pcapng interface: the number of time stamp units per second.
struct Interface {
    units: u128,
}

fn blocks(file: &[u8]) -> Result<Vec<Record>, PcapError> {
    let mut bytes = Bytes { file, big: false };
    let (mut records, mut interfaces, mut at) = (Vec::new(), Vec::new(), 0);
    while at < file.len() {
        let kind = bytes.u32(at)?;
        if kind == SECTION {
            bytes.big = Bytes { file, big: true }.u32(at + 8)? == BYTE_ORDER;
            interfaces.clear();
        }
        let len = bytes.len(at + 4)?;
        if len < 12 || len % 4 != 0 {
            return Err(PcapError::Block(at));
        }
        let block = Bytes { file: bytes.slice(at, len)?, ..bytes };
        match kind {
            1 => interfaces.push(interface(block)?),
            3 | 6 => records.push(packet(block, kind == 6, &interfaces, &records, at)?),
            _ => {}
        }
        at += len;
    }
    Ok(records)
}

/// An interface description: link type, then options. Only the time resolution is used.
fn interface(block: Bytes<'_>) -> Result<Interface, PcapError> {
    const END: u16 = 0;
    const TIME_RESOLUTION: u16 = 9;
    ethernet(block.u16(8)?)?;
    let (mut units, mut at) = (1_000_000, 16);
    while at + 8 <= block.file.len() {
        let (code, len) = (block.u16(at)?, usize::from(block.u16(at + 2)?));
        if code == END {
            break;
        }
        if code == TIME_RESOLUTION && len == 1 {
            let power = block.slice(at + 4, 1)?[0];
            let (base, power) = if power & 0x80 != 0 { (2u128, power & 0x7f) } else { (10, power) };
            units = base.checked_pow(u32::from(power)).unwrap_or(u128::MAX);
        }
        at += 4 + len.next_multiple_of(4);
    }
    Ok(Interface { units })
}

fn packet(
    block: Bytes<'_>,
    enhanced: bool,
    all: &[Interface],
    before: &[Record],
    at: usize,
) -> Result<Record, PcapError> {
    if !enhanced {
        // A simple packet block has no time. It gets the time of the packet before it.
        let len = block.len(8)?.min(block.file.len() - 16);
        let time = before.last().map_or(Instant(0), |record| record.time);
        return Ok(Record { time, bytes: block.slice(12, len)?.to_vec() });
    }
    let interface = all.get(block.len(8)?).ok_or(PcapError::Block(at))?;
    let stamp = u128::from(block.u32(12)?) << 32 | u128::from(block.u32(16)?);
    let time = Instant(u64::try_from(stamp * 1_000_000_000 / interface.units).unwrap_or(u64::MAX));
    let len = block.len(20)?;
    if len + 32 > block.file.len() {
        return Err(PcapError::Block(at));
    }
    Ok(Record { time, bytes: block.slice(28, len)?.to_vec() })
}

/// Writes a classic pcap file, frame by frame.
pub struct Writer<W: Write>(W);

impl<W: Write> Writer<W> {
    /// Writes the file header, so that a capture without frames is a valid file.
    pub fn new(mut out: W) -> io::Result<Writer<W>> {
        out.write_all(&MICRO.to_le_bytes())?;
        out.write_all(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
        out.write_all(&0x0004_0000u32.to_le_bytes())?;
        out.write_all(&u32::from(ETHERNET).to_le_bytes())?;
        Ok(Writer(out))
    }

    /// Appends a frame.
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        let clamp = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let len = clamp(record.bytes.len() as u64);
        let (seconds, nanos) = (record.time.0 / 1_000_000_000, record.time.0 % 1_000_000_000);
        for number in [clamp(seconds), clamp(nanos / 1000), len, len] {
            self.0.write_all(&number.to_le_bytes())?;
        }
        self.0.write_all(&record.bytes)
    }

    /// Flushes the file.
    pub fn finish(mut self) -> io::Result<W> {
        self.0.flush()?;
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(records: &[Record]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).expect("memory");
        records.iter().for_each(|record| writer.write(record).expect("memory"));
        writer.finish().expect("memory")
    }

    fn record(micros: u64, byte: u8) -> Record {
        Record { time: Instant(micros * 1000), bytes: vec![byte; 60] }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let records = [record(1_700_000_000_000_001, 1), record(1_700_000_000_000_002, 2)];
        assert_eq!(read(&file(&records)), Ok(records.to_vec()));
        assert_eq!(read(&file(&[])), Ok(vec![]));
    }

    #[test]
    fn both_byte_orders_and_resolutions_are_read() {
        let mut big = Vec::new();
        for number in [NANO, 0x0002_0004, 0, 0, 65535, 1, 5, 7, 2, 2] {
            big.extend(number.to_be_bytes());
        }
        big.extend([9, 9]);
        assert_eq!(read(&big), Ok(vec![Record { time: Instant(5_000_000_007), bytes: vec![9, 9] }]));
    }

    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 12).expect("small");
        [&kind.to_le_bytes(), &len.to_le_bytes()[..], body, &len.to_le_bytes()].concat()
    }

    #[test]
    fn pcapng_is_read() {
        let section = block(SECTION, &[&BYTE_ORDER.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat());
        // Nanoseconds.
        let interface = block(1, &[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        let enhanced = block(
            6,
            &[&[0u8; 4][..], &[0; 4], &77u32.to_le_bytes(), &[3, 0, 0, 0], &[3, 0, 0, 0], &[1, 2, 3, 0]].concat(),
        );
        let simple = block(3, &[&[2u8, 0, 0, 0][..], &[8, 8, 0, 0]].concat());
        let records = read(&[section, interface, enhanced, simple].concat()).expect("a capture");
        assert_eq!(records[0], Record { time: Instant(77), bytes: vec![1, 2, 3] });
        assert_eq!(records[1], Record { time: Instant(77), bytes: vec![8, 8] });
    }

    #[test]
    fn each_broken_capture_has_its_error() {
        assert_eq!(read(b""), Err(PcapError::NotACapture));
        assert_eq!(read(b"#!/bin/sh"), Err(PcapError::NotACapture));
        let mut cut = file(&[record(1, 1)]);
        cut.truncate(cut.len() - 1);
        assert_eq!(read(&cut), Err(PcapError::CutOff(40)));
        let mut wifi = file(&[]);
        wifi[20] = 105;
        assert_eq!(read(&wifi), Err(PcapError::LinkType(105)));
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), start in 0usize..3) {
            let magic = [MICRO, NANO, SECTION][start].to_le_bytes();
            bytes.splice(0..0, magic);
            let _ = read(&bytes);
        }
    }

    #[test]
    fn input_is_received_and_output_has_the_time_of_the_poll() {
        let (input, output) = (Track::default(), Track::default());
        let mut port = PcapPort::new(PortId(0), Arc::clone(&input), Arc::clone(&output));
        input.push(record(1, 1));
        let (mut frames, mut back) = (Vec::new(), Vec::new());
        port.rx(Instant(1000), 64, &mut frames);
        assert_eq!((frames.len(), frames[0].bytes()[0]), (1, 1));
        port.tx(Instant(7000), &mut frames, &mut back);
        assert_eq!(output.pop(), Some(record(7, 1)));
        back.drain(..).for_each(|returned| port.release(returned.frame));
        assert_eq!(port.lender.out(), 0);
    }
}
