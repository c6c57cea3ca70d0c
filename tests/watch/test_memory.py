import subprocess
import sys
import textwrap


def test_many_threads_of_a_box_share_two_pools_of_memory() -> None:
    # malloc_info lists the pools; another process, because they are never given back.
    program = textwrap.dedent("""
        import ctypes, os, sys, tempfile, threading
        from edgecnn.watch.memory import share_arenas
        assert share_arenas()
        libc = ctypes.CDLL(None)
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        gate = threading.Barrier(9)
        def work():
            libc.malloc(1000)
            gate.wait(); gate.wait()
        threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
        [t.start() for t in threads]
        gate.wait()
        libc.fdopen.restype, libc.fdopen.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_char_p]
        libc.malloc_info.argtypes, libc.fflush.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
        with tempfile.TemporaryFile() as file:
            stream = libc.fdopen(os.dup(file.fileno()), b"w")
            libc.malloc_info(0, stream); libc.fflush(stream)
            file.seek(0)
            print(file.read().count(b"<heap nr="))
        gate.wait()
    """)
    pools = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert int(pools) <= 2
