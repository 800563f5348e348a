//! Puts a VLAN tag (IEEE 802.1Q §9) back into a frame from which the kernel removed it.

use super::super::Offload;

/// Length of a tag.
pub(in crate::port) const TAG_LEN: usize = 4;
/// Length of the two addresses before the tag.
const ADDRESSES: usize = 12;
/// 802.1Q, if the kernel does not report the protocol.
const C_TAG: u16 = 0x8100;

/// A tag: protocol and contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::port) struct Tag {
    protocol: u16,
    contents: u16,
}

impl Tag {
    /// The tag in the status and fields of a packet header (packet(7)); `None` if no tag was removed.
    pub(in crate::port) fn stripped(status: u32, protocol: u16, contents: u16) -> Option<Tag> {
        if status & libc::TP_STATUS_VLAN_VALID == 0 {
            return None;
        }
        let known = status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
        Some(Tag { protocol: if known { protocol } else { C_TAG }, contents })
    }

    /// Inserts the tag into the frame at `start` of `buffer`, by moving the frame's addresses to the front. Returns the new
    /// start. Needs [`TAG_LEN`] bytes before the frame.
    pub(in crate::port) fn insert(self, buffer: &mut [u8], start: usize) -> Option<usize> {
        let moved = start.checked_sub(TAG_LEN)?;
        let at = moved + ADDRESSES;
        buffer.get(..start + ADDRESSES)?;
        buffer.copy_within(start..start + ADDRESSES, moved);
        buffer[at..at + 2].copy_from_slice(&self.protocol.to_be_bytes());
        buffer[at + 2..at + TAG_LEN].copy_from_slice(&self.contents.to_be_bytes());
        Some(moved)
    }
}

/// The offload of a frame after a tag was inserted. Its offsets count from the first byte.
pub(in crate::port) fn shifted(mut offload: Offload) -> Offload {
    const BY: u16 = 4;
    if offload.is_partial() {
        offload.csum_start = offload.csum_start.saturating_add(BY);
    }
    if offload.hdr_len != 0 {
        offload.hdr_len = offload.hdr_len.saturating_add(BY);
    }
    offload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stripped_tag_comes_back_where_it_was() {
        let status = libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID;
        let tag = Tag::stripped(status, 0x88a8, 0x2064).expect("a tag");
        let mut buffer: Vec<u8> = (0..24).collect();
        assert_eq!(tag.insert(&mut buffer, 6), Some(2));
        assert_eq!(&buffer[2..14], &[6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]);
        assert_eq!(&buffer[14..18], &[0x88, 0xa8, 0x20, 0x64]);
        assert_eq!(&buffer[18..], &[18, 19, 20, 21, 22, 23]);
    }

    #[test]
    fn no_tag_without_the_status_and_802_1q_where_the_kernel_is_silent() {
        assert_eq!(Tag::stripped(libc::TP_STATUS_USER, 0x88a8, 5), None);
        let tag = Tag::stripped(libc::TP_STATUS_VLAN_VALID, 0, 5);
        assert_eq!(tag, Some(Tag { protocol: 0x8100, contents: 5 }));
    }

    #[test]
    fn a_frame_without_room_or_too_short_is_refused() {
        let tag = Tag { protocol: C_TAG, contents: 1 };
        assert_eq!(tag.insert(&mut [0; 20], 3), None);
        assert_eq!(tag.insert(&mut [0; 15], 4), None);
    }
}
