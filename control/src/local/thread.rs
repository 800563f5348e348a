//! A thread with a runtime of its own, on which listeners of local services run.

use std::future::Future;
use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;

use crate::threads::{self, Role};

/// The thread. Dropping it ends the thread and closes all its sockets.
#[derive(Debug)]
pub(crate) struct ServiceThread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ServiceThread {
    /// Starts the thread, in the calling thread's network namespace, with a task that never ends by itself.
    pub(crate) fn start(role: Role, task: impl Future<Output = ()> + Send + 'static) -> io::Result<ServiceThread> {
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let handle = runtime.handle().clone();
        let work = move || {
            runtime.block_on(async move {
                tokio::select! {
                    _ = stopped => {}
                    () = task => {}
                }
            });
        };
        let thread = threads::spawn(role, role.name(), work)?;
        Ok(ServiceThread { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Where tasks are started.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for ServiceThread {
    fn drop(&mut self) {
        // The thread may have ended already.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of it has been printed.
            let _ = thread.join();
        }
    }
}
