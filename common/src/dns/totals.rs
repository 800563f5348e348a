//! What is counted of queries and their responses, whoever answers them.

use super::answer::{Answered, Rule};
use super::message::{Malformed, Rcode};
use super::records::rr;
use crate::counters::WorkerCounters;

/// Queries and responses, counted where they are answered; copied to the counters of that thread from time to time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    a: u64,
    aaaa: u64,
    srv: u64,
    ptr: u64,
    other: u64,
    no_error: u64,
    no_data: u64,
    nx_domain: u64,
    serv_fail: u64,
    refused: u64,
    not_imp: u64,
    bad_vers: u64,
    malformed_name: u64,
    malformed_counts: u64,
    malformed_opt: u64,
    malformed_trailing: u64,
    truncated: u64,
    /// Queries beyond the rate that got an empty, truncated response.
    pub slipped: u64,
    search_list: u64,
    /// Queries that were given to the resolver.
    pub forwarded: u64,
    /// Queries that it had no room for; those that get an answer that says so are counted with it.
    pub no_room: u64,
}

impl Totals {
    /// Counts a query of this type and its response.
    #[inline]
    pub fn count(&mut self, rtype: u16, answered: &Answered) {
        self.truncated += u64::from(answered.truncated);
        let code = match (answered.rcode, answered.rule) {
            (_, Rule::Malformed(Malformed::Name)) => &mut self.malformed_name,
            (_, Rule::Malformed(Malformed::Counts)) => &mut self.malformed_counts,
            (_, Rule::Malformed(Malformed::Opt)) => &mut self.malformed_opt,
            (_, Rule::Malformed(Malformed::Trailing)) => &mut self.malformed_trailing,
            (Rcode::NoError, _) if answered.answers == 0 && !answered.truncated => &mut self.no_data,
            (Rcode::NoError, rule) => {
                self.search_list += u64::from(rule == Rule::SearchList);
                &mut self.no_error
            }
            (Rcode::NxDomain, _) => &mut self.nx_domain,
            (Rcode::ServFail, rule) => {
                self.no_room += u64::from(rule == Rule::Busy);
                &mut self.serv_fail
            }
            (Rcode::Refused, _) => &mut self.refused,
            (Rcode::NotImp, _) => &mut self.not_imp,
            (Rcode::BadVers, _) => &mut self.bad_vers,
            // Every one has its reason.
            (Rcode::FormErr, _) => &mut self.malformed_counts,
        };
        *code += 1;
        if matches!(answered.rule, Rule::Malformed(_) | Rule::Opcode) {
            return;
        }
        let by_type = match rtype {
            rr::A => &mut self.a,
            rr::AAAA => &mut self.aaaa,
            rr::SRV => &mut self.srv,
            rr::PTR => &mut self.ptr,
            _ => &mut self.other,
        };
        *by_type += 1;
    }

    /// Copies the totals to the counters of the thread that answers.
    pub fn report(&self, counters: &WorkerCounters) {
        counters.dns_a.set(self.a);
        counters.dns_aaaa.set(self.aaaa);
        counters.dns_srv.set(self.srv);
        counters.dns_ptr.set(self.ptr);
        counters.dns_other.set(self.other);
        counters.dns_answered.set(self.no_error);
        counters.dns_no_data.set(self.no_data);
        counters.dns_nxdomain.set(self.nx_domain);
        counters.dns_servfail.set(self.serv_fail);
        counters.dns_refused.set(self.refused);
        counters.dns_notimp.set(self.not_imp);
        counters.dns_badvers.set(self.bad_vers);
        counters.dns_bad_name.set(self.malformed_name);
        counters.dns_bad_counts.set(self.malformed_counts);
        counters.dns_bad_opt.set(self.malformed_opt);
        counters.dns_trailing.set(self.malformed_trailing);
        counters.dns_truncated.set(self.truncated);
        counters.dns_slipped.set(self.slipped);
        counters.dns_search_list.set(self.search_list);
        counters.dns_forwarded.set(self.forwarded);
        counters.dns_no_room.set(self.no_room);
    }
}
