//! Where byte streams come from: TCP, or a simulated network.

use std::any::Any;
use std::io;
use std::mem::offset_of;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use shoal_runtime::transport::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A stream of bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + Any {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + Any> ByteStream for T {}

/// Wake who reads a stream only when so much has come; 1: as soon as anything has. The end of the stream
/// wakes in any case. Only a hint, and none to streams that are not the system's, nor to those from afar: the
/// system lets hardly more be on its way than it is to wake for, once a round trip.
pub(crate) fn wake_after(stream: &(dyn ByteStream + 'static), bytes: usize) {
    if let Some(stream) = (stream as &dyn Any).downcast_ref::<TcpStream>().filter(|stream| is_near(stream)) {
        // Without it there are more wake-ups, and that is all.
        let _ = set(stream, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes as libc::c_int);
    }
}

/// Within so many microseconds a quarter of a MiB comes at more than a GiB a second.
const NEAR_MICROS: u32 = 200;

/// Whether the shortest round trip on a stream took no longer than that. What is not known is far.
fn is_near(stream: &TcpStream) -> bool {
    tcp_info(stream)
        .is_some_and(|(info, length)| (1..=NEAR_MICROS).contains(&shortest_round_trip(&info, length)))
}

/// What the system knows of a connection, and how many bytes of that it has filled in.
fn tcp_info(stream: &TcpStream) -> Option<(libc::tcp_info, usize)> {
    // SAFETY: numbers that are all zero are a valid value of it.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as `stream` is borrowed, and the system writes at most
    // `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some((info, length as usize))
}

/// In microseconds. The average says how long the other end took to answer as well, which is long where
/// processors are busy; the minimum says how far away it is. A system that does not give that (Linux before
/// 4.6) gives the average.
fn shortest_round_trip(info: &libc::tcp_info, length: usize) -> u32 {
    let end = offset_of!(libc::tcp_info, tcpi_min_rtt) + size_of_val(&info.tcpi_min_rtt);
    if length < end { info.tcpi_rtt } else { info.tcpi_min_rtt }
}

/// Let the system keep more of a stream that carries nothing but bulk, so that it has something to send while
/// the next bytes are sealed. Only a hint, as above.
pub(crate) fn buffer_bulk(stream: &(dyn ByteStream + 'static)) {
    if let Some(stream) = (stream as &dyn Any).downcast_ref::<TcpStream>() {
        let _ = set(stream, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT_BULK_BYTES_MAX);
    }
}

/// What connects and listens.
pub trait Network: Send + Sync {
    /// Connect to an address.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>>;
    /// Listen at an address.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
}

/// What takes connections.
pub trait Listener: Send + Sync {
    /// Where it listens.
    fn local_address(&self) -> SocketAddr;
    /// The next connection, and from where it comes.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn ByteStream>, SocketAddr)>>;
}

/// The system's TCP.
#[derive(Clone, Copy, Debug)]
pub struct Tcp;

struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

impl Network for Tcp {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move { prompt(TcpStream::connect(address).await?) })
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Box::new(Listening { listener, address }) as Box<dyn Listener>)
        })
    }
}

impl Listener for Listening {
    fn local_address(&self) -> SocketAddr {
        self.address
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn ByteStream>, SocketAddr)>> {
        Box::pin(async {
            let (stream, address) = self.listener.accept().await?;
            Ok((prompt(stream)?, address))
        })
    }
}

/// What is written is gathered already and should not wait for more; and what the network has not taken
/// yet should stay where urgent frames can still go before it.
fn prompt(stream: TcpStream) -> io::Result<Box<dyn ByteStream>> {
    stream.set_nodelay(true)?;
    set(&stream, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)?;
    Ok(Box::new(stream))
}

/// Bytes that the kernel keeps of a stream beyond those that are on their way. Without a limit it takes
/// megabytes of bulk, and a control frame behind them waits for all of it.
const UNSENT_BYTES_MAX: libc::c_int = 128 << 10;

/// The same for a stream that carries nothing else. With more, what is sent has left the processor's caches
/// before it is read.
const UNSENT_BULK_BYTES_MAX: libc::c_int = 256 << 10;

fn set(stream: &TcpStream, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `stream` is borrowed, and the value is an int of the
    // length that is told.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
        (one.expect("connected"), other.expect("accepted").0)
    }

    fn known(stream: &TcpStream) -> (u32, u32) {
        let (info, length) = tcp_info(stream).expect("a connection");
        (shortest_round_trip(&info, length), info.tcpi_rtt)
    }

    /// An end that is slow to answer is no farther away.
    #[tokio::test]
    async fn late_acknowledgements_lengthen_the_average_only() {
        let (mut near, mut slow) = connected().await;
        near.set_nodelay(true).expect("a connection");
        let (at_first, average) = known(&near);
        assert!((1..=average).contains(&at_first), "{at_first} of {average}");
        let mut now = (at_first, average);
        for _ in 0..100 {
            // It keeps its acknowledgement, to send it along with an answer that does not come.
            set(&slow, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0).expect("a connection");
            near.write_all(&[0]).await.expect("there is room");
            slow.read_exact(&mut [0]).await.expect("it comes");
            tokio::time::sleep(Duration::from_millis(50)).await;
            now = known(&near);
            if now.1 > 4 * at_first {
                break;
            }
        }
        assert!(now.1 > 4 * at_first, "no acknowledgement was late: {at_first}, then {now:?}");
        assert!((1..=at_first).contains(&now.0), "{at_first}, then {now:?}");
    }

    #[test]
    fn a_system_that_tells_less_gives_the_average() {
        // SAFETY: numbers that are all zero are a valid value of it.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        (info.tcpi_rtt, info.tcpi_min_rtt) = (70, 30);
        assert_eq!(shortest_round_trip(&info, size_of::<libc::tcp_info>()), 30);
        // As long as Linux 2.6.12 to 3.14 had it.
        assert_eq!(shortest_round_trip(&info, 104), 70);
        assert_eq!(shortest_round_trip(&info, 148), 70);
        assert_eq!(shortest_round_trip(&info, 152), 30);
    }
}
