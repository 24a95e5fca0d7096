//! Keeps the workers' picture of the host current: whether it forwards, and where its routes lead.
//!
//! Changes are waited out for a moment, since routes come in crowds, and a host with very many has them read more seldom. Whether the host forwards is a sysctl that nobody
//! is told of; it is looked at once a second.

use std::sync::Arc;
use std::time::Duration;

use linegate_dataplane::clock::Clock;
use linegate_dataplane::hairpin::HostRoutes;
use linegate_wire::time::Instant;

use crate::config::HairpinChoice;
use crate::netlink::{Event, Netlink, NetlinkError};
use crate::status::Choice;

/// How long after a change the routes are read.
const SETTLE: Duration = Duration::from_millis(100);

/// Reading the routes takes at most one in this many parts of the time, however many there are and however often they
/// change.
const READING_SHARE: u32 = 10;

/// How often the sysctls are read.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The follower of the host's routes.
pub struct Hairpin {
    interface: String,
    tunnel: u32,
    due: Instant,
    /// Before this, routes are not read again.
    rested: Instant,
    /// What was last read: forwarding of IPv4 and IPv6. None before the first look, and after routes have changed.
    known: Option<(bool, bool)>,
    choice: Choice,
}

/// New orders for the workers: the host's routes, or none.
pub type Orders = Option<Arc<HostRoutes>>;

impl Hairpin {
    /// A follower for the tunnel interface of that name and index.
    #[must_use]
    pub fn new(setting: HairpinChoice, interface: &str, tunnel: u32, now: Instant) -> Option<Self> {
        (setting == HairpinChoice::Auto).then(|| Self {
            interface: interface.to_owned(),
            tunnel,
            due: now,
            rested: now,
            known: None,
            choice: choice("kernel", "the host was not asked yet"),
        })
    }

    /// What is done at present, and why; `follower` is that of a gateway that may decide by itself.
    #[must_use]
    pub fn choice(follower: Option<&Self>) -> Choice {
        let asked = || Choice { setting: "kernel".into(), ..choice("kernel", "asked for") };
        follower.map_or_else(asked, |follower| follower.choice.clone())
    }

    /// When [`look`](Self::look) is to be called.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.due
    }

    /// Takes note of a change.
    pub fn follow(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Neighbour(_) => {}
            // IPv4 routes that go with their interface go without a word.
            Event::Link(_) | Event::LinkGone { .. } | Event::Addresses { .. } | Event::Routes | Event::Overrun => {
                if self.known.take().is_some() {
                    self.due = (now + SETTLE).max(self.rested);
                }
            }
        }
    }

    /// Looks at the host if it is time to; gives what the workers are to be told, if that changed.
    pub async fn look(&mut self, netlink: &Netlink, now: Instant) -> Option<Orders> {
        if now < self.due {
            return None;
        }
        self.due = now + LOOK_AGAIN_AFTER;
        let forwarding = self.forwarding();
        if self.known == Some(forwarding) {
            return None;
        }
        self.known = Some(forwarding);
        let before = self.choice.chosen.clone();
        let begun = Clock.now();
        let orders = match self.ask(netlink, forwarding).await {
            Ok(Ok(routes)) => {
                let reason = "the host forwards; its nftables do not see branch-to-branch packets \
                              (hairpin = \"kernel\" shows them)";
                self.choice = choice("worker", reason);
                Some(Arc::new(routes))
            }
            Ok(Err(reason)) => {
                self.choice = choice("kernel", reason);
                None
            }
            Err(error) => {
                self.known = None;
                self.choice = choice("kernel", &error.to_string());
                None
            }
        };
        let ended = Clock.now();
        self.rested = ended + ended.saturating_since(begun) * READING_SHARE;
        if self.choice.chosen != before {
            let Choice { chosen, reason, .. } = &self.choice;
            tracing::info!(by = chosen, reason, "branch-to-branch packets");
        }
        Some(orders)
    }

    async fn ask(
        &self,
        netlink: &Netlink,
        (forwards_v4, forwards_v6): (bool, bool),
    ) -> Result<Result<HostRoutes, &'static str>, NetlinkError> {
        if !forwards_v4 && !forwards_v6 {
            return Ok(Err("the host does not forward (sysctl net.ipv4.ip_forward, net.ipv6.conf.all.forwarding)"));
        }
        if netlink.has_policy_rules().await? {
            return Ok(Err("the host has routing rules of its own (ip rule), which it alone can follow"));
        }
        let routes = netlink.ways(self.tunnel).await?;
        Ok(Ok(HostRoutes { forwards_v4, forwards_v6, routes }))
    }

    /// Whether the host forwards IPv4 and IPv6 from the tunnel.
    fn forwarding(&self) -> (bool, bool) {
        let is_on = |path: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0");
        let v4 = format!("/proc/sys/net/ipv4/conf/{}/forwarding", self.interface);
        (is_on(&v4), is_on("/proc/sys/net/ipv6/conf/all/forwarding"))
    }
}

fn choice(chosen: &str, reason: &str) -> Choice {
    Choice { setting: "auto".into(), chosen: chosen.into(), reason: reason.into() }
}
