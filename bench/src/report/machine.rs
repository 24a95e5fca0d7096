//! What a run was measured on, as far as the kernel tells.

use serde::{Deserialize, Serialize};

/// A machine. What could not be read is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: Option<String>,
    pub(crate) cores: usize,
    pub(crate) kernel: Option<String>,
    /// The frequency governor of core 0.
    pub(crate) governor: Option<String>,
    /// It is a virtual machine: others may use its cores.
    pub(crate) virtual_machine: bool,
    /// Processes that ran or waited to, averaged over the minute before: what else it had to do.
    pub(crate) load: Option<f64>,
}

impl Machine {
    /// This one.
    pub(crate) fn read() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            cpuinfo.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':')).map(str::trim)
        };
        Self {
            cpu: field("model name").map(str::to_owned),
            // Not those that this thread may use: it may be pinned.
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: read("/proc/sys/kernel/osrelease"),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            virtual_machine: field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            load: read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
        }
    }

    /// What does not change from run to run.
    pub(crate) fn name(&self) -> String {
        Self { load: None, ..self.clone() }.describe()
    }

    /// In one line.
    pub(crate) fn describe(&self) -> String {
        let mut words =
            vec![self.cpu.clone().unwrap_or_else(|| "unknown CPU".to_owned()), format!("{} cores", self.cores)];
        words.extend(self.kernel.as_ref().map(|kernel| format!("Linux {kernel}")));
        words.extend(self.governor.as_ref().map(|governor| format!("governor {governor}")));
        words.extend(self.virtual_machine.then(|| "virtual machine".to_owned()));
        words.extend(self.load.map(|load| format!("load {load:.1} before")));
        words.join(", ")
    }
}
