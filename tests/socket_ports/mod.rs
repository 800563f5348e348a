//! The ports over an AF_PACKET socket on real veth pairs: every case runs on each kind of them.

mod cases;
mod only_packet;
mod only_uring;
mod steering;
mod super_frames;
mod support;

use pollgate_dataplane::port::packet::PacketPort;
use pollgate_dataplane::port::uring::UringPort;

use crate::shared::harness::Test;
use crate::shared::needs::Need::{IoUring, Lab};

/// Each case as a test of each kind of port.
macro_rules! on_both {
    ($($group:ident :: $case:ident,)*) => {
        const ON_BOTH: &[Test] = &[$(
            Test {
                path: concat!(module_path!(), "::packet::", stringify!($case)),
                needs: &[Lab],
                body: $group::$case::<PacketPort>,
            },
            Test {
                path: concat!(module_path!(), "::uring::", stringify!($case)),
                needs: &[Lab, IoUring],
                body: $group::$case::<UringPort>,
            },
        )*];
    };
}

on_both! {
    cases::a_frame_comes_in_as_sent_with_its_partial_checksum_and_goes_back_finished_by_the_kernel,
    cases::a_vlan_tag_that_the_kernel_took_out_is_put_back,
    cases::frames_for_others_are_seen_and_our_own_are_not,
    cases::what_cannot_be_sent_has_its_reason_and_the_rest_is_sent,
    cases::a_link_that_goes_down_and_comes_back_is_polled_on,
    cases::opening_says_what_is_missing,
    cases::a_sleeping_worker_is_woken_by_a_frame_and_not_for_long_by_a_link_error,
    cases::the_kernel_keeps_its_own_copy_of_what_is_polled,
    steering::workers_share_an_interface_and_each_frame_goes_to_one,
    steering::the_kernel_chooses_the_worker_that_owns_the_flow,
    steering::a_group_that_is_opened_again_has_an_order_of_its_own,
    steering::the_largest_program_is_taken,
    super_frames::super_frames_pass_whole_in_and_out,
    super_frames::super_frames_are_cut_up_by_the_kernel_where_the_device_cannot,
    super_frames::super_frames_are_taken_whole_or_counted_and_wait_for_a_buffer,
}

/// The tests of all modules.
pub(crate) fn tests() -> Vec<Test> {
    [ON_BOTH, only_packet::TESTS, only_uring::TESTS].concat()
}
