//! TCP (RFC 9293 §3.1).
//!
//! ```text
//!  0       2       4      8     12     13     14       16        18       20
//!  │ sport │ dport │ seq  │ ack │ off  │ flags│ window │ checksum│ urgent │ options…
//! ```

use pollgate_common::reasons::DropReason;
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Header, checksum};
use crate::flow::life::Signal;

/// Bytes of a header without options.
pub const LEN: usize = 20;
/// IANA protocol number.
pub const PROTOCOL: u8 = 6;
/// Offset of the checksum in the header.
pub const CHECKSUM: usize = 16;
/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset the connection.
pub const RST: u8 = 0x04;
/// The acknowledgement number is valid.
pub const ACK: u8 = 0x10;

/// End of the list of options.
const OPTION_END: u8 = 0;
/// Padding of one byte.
const OPTION_NOP: u8 = 1;
/// Window scale (RFC 7323 §2.2).
const OPTION_SCALE: u8 = 3;

/// The fields of a segment that decide a connection's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; meaningless without [`ACK`].
    pub ack: u32,
    /// [`SYN`], [`ACK`], ...
    pub flags: u8,
    /// The window scale that a SYN offers; zero if none.
    pub scale: u8,
}

impl Segment {
    /// Whether the segment neither opens nor closes a connection: no SYN, FIN or RST.
    #[inline]
    pub fn is_ordinary(&self) -> bool {
        self.flags & (SYN | FIN | RST) == 0
    }

    /// Whether the acknowledgement number is valid.
    #[inline]
    pub fn has_ack(&self) -> bool {
        self.flags & ACK != 0
    }

    /// The signal for the connection, by the order in which a receiver checks the flags (RFC 9293 §3.10.7.4).
    #[inline]
    pub fn signal(&self) -> Signal {
        match (self.flags & RST != 0, self.flags & SYN != 0, self.has_ack(), self.flags & FIN != 0) {
            (true, _, _, _) => Signal::Reset,
            (false, true, false, _) => Signal::Syn,
            (false, true, true, _) => Signal::SynAck,
            (false, false, true, true) => Signal::Fin,
            (false, false, true, false) => Signal::Segment,
            (false, false, false, _) => Signal::Nothing,
        }
    }
}

/// The fixed part of a TCP header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Tcp {
    src_port: U16,
    dst_port: U16,
    seq: U32,
    ack: U32,
    offset: u8,
    flags: u8,
    window: U16,
    checksum: U16,
    urgent: U16,
}

impl Header for Tcp {}

impl Tcp {
    /// The header at `at`, verified to lie within the `len` bytes of transport header and payload.
    #[inline]
    pub fn check(frame: &[u8], at: usize, len: usize) -> Result<&Tcp, DropReason> {
        let tcp = Tcp::at(frame, at).ok_or(DropReason::L4Header)?;
        let header_len = tcp.header_len();
        if header_len < LEN || header_len > len { Err(DropReason::L4Header) } else { Ok(tcp) }
    }

    /// Bytes of the header, including options.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.offset >> 4) * 4
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        self.src_port.get()
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        self.dst_port.get()
    }

    /// The flag bits: [`SYN`], [`ACK`], ...
    #[inline]
    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// The fields that decide a connection's life. `options` are the bytes after the fixed part.
    pub fn segment(&self, options: &[u8]) -> Segment {
        let scale = if self.flags & SYN != 0 { window_scale(options) } else { 0 };
        Segment { seq: self.seq.get(), ack: self.ack.get(), flags: self.flags, scale }
    }

    /// Sets both ports. `delta` is the difference that addresses and ports make to the sum.
    #[inline]
    pub fn translate(&mut self, src_port: u16, dst_port: u16, delta: checksum::Transport) {
        self.src_port = U16::new(src_port);
        self.dst_port = U16::new(dst_port);
        self.checksum = U16::new(delta.apply(self.checksum.get()));
    }

    /// The RST that answers this segment of `payload` bytes (RFC 9293 §3.10.7.1). Its checksum is still zero.
    pub fn reset(&self, payload: u32) -> Tcp {
        let acked = self.flags & ACK != 0;
        let length = payload + u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        Tcp {
            src_port: self.dst_port,
            dst_port: self.src_port,
            seq: if acked { self.ack } else { U32::new(0) },
            ack: if acked { U32::new(0) } else { U32::new(self.seq.get().wrapping_add(length)) },
            offset: 0x50,
            flags: if acked { RST } else { RST | ACK },
            window: U16::new(0),
            checksum: U16::new(0),
            urgent: U16::new(0),
        }
    }

    /// Sets the checksum field to this value.
    pub fn set_checksum(&mut self, sum: u16) {
        self.checksum = U16::new(sum);
    }
}

/// The window scale among a SYN's options; zero if there is none, or if the options before it are malformed.
fn window_scale(mut options: &[u8]) -> u8 {
    loop {
        options = match options {
            [OPTION_NOP, rest @ ..] => rest,
            [OPTION_SCALE, 3, scale, ..] => return *scale,
            [OPTION_END, ..] | [] | [_] => return 0,
            [_, length, ..] => match options.get(usize::from(*length).max(2)..) {
                Some(rest) => rest,
                None => return 0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment(flags: u8) -> Vec<u8> {
        let mut bytes = vec![0x9c, 0x40, 0x1f, 0x90, 0, 0, 0, 100, 0, 0, 0, 200, 0x50, flags];
        bytes.resize(20, 0);
        bytes
    }

    #[test]
    fn a_reset_answers_what_the_rfc_says() {
        let seen = |flags, payload| {
            let reset = Tcp::check(&segment(flags), 0, 20).expect("a header").reset(payload);
            (reset.src_port(), reset.dst_port(), reset.flags(), reset.seq.get(), reset.ack.get())
        };
        assert_eq!(seen(SYN, 0), (8080, 40000, RST | ACK, 0, 101));
        assert_eq!(seen(ACK, 10), (8080, 40000, RST, 200, 0));
        assert_eq!(seen(FIN, 5), (8080, 40000, RST | ACK, 0, 106));
    }

    #[test]
    fn the_data_offset_must_fit() {
        let mut bytes = segment(ACK);
        assert!(Tcp::check(&bytes, 0, 20).is_ok());
        bytes[12] = 0x60;
        assert_eq!(Tcp::check(&bytes, 0, 20).err(), Some(DropReason::L4Header));
        bytes[12] = 0x40;
        assert_eq!(Tcp::check(&bytes, 0, 20).err(), Some(DropReason::L4Header));
        assert_eq!(Tcp::check(&bytes[..19], 0, 19).err(), Some(DropReason::L4Header));
    }

    #[test]
    fn flags_are_read_in_the_order_of_the_rfc() {
        let signal = |flags| Segment { flags, ..Segment::default() }.signal();
        assert_eq!(
            [SYN, SYN | ACK, ACK, FIN | ACK].map(signal),
            [Signal::Syn, Signal::SynAck, Signal::Segment, Signal::Fin]
        );
        assert_eq!([RST, RST | ACK, RST | SYN, RST | FIN | ACK].map(signal), [Signal::Reset; 4]);
        assert_eq!([0, FIN, 0x08].map(signal), [Signal::Nothing; 3]);
    }

    #[test]
    fn the_window_scale_is_found_among_the_options() {
        // As Linux sends them: MSS, SACK permitted, time stamps, NOP, scale.
        let linux = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        assert_eq!(window_scale(&linux), 7);
        assert_eq!(
            [&[][..], &[3], &[3, 3], &[2, 4, 5], &[0, 3, 3, 7], &[9, 0, 3, 3, 5]].map(window_scale),
            [0, 0, 0, 0, 0, 5]
        );
    }

    proptest! {
        #[test]
        fn any_options_are_read_to_their_end(options in proptest::collection::vec(any::<u8>(), 0..41)) {
            window_scale(&options);
        }
    }
}
