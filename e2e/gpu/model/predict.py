import ctypes
import os

from cog import BaseModel, BaseRunner, Input


class Output(BaseModel):
    visible: str
    devices: list[str]
    total: int


def check(status: int, what: str) -> None:
    if status != 0:
        raise RuntimeError(f"{what} answered CUDA error {status}")


class Runner(BaseRunner):
    def setup(self) -> None:
        self.cuda = ctypes.CDLL("libcuda.so.1")
        check(self.cuda.cuInit(0), "cuInit")
        device = ctypes.c_int()
        check(self.cuda.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
        self.context = ctypes.c_void_p()
        check(self.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(self.context), device), "cuDevicePrimaryCtxRetain")

    def devices(self) -> list[str]:
        count = ctypes.c_int()
        check(self.cuda.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
        names = []
        for index in range(count.value):
            name = ctypes.create_string_buffer(100)
            check(self.cuda.cuDeviceGetName(name, 100, index), "cuDeviceGetName")
            names.append(name.value.decode())
        return names

    def run(self, value: int = Input(ge=0, le=1000), count: int = Input(default=1000, ge=1, le=1_000_000)) -> Output:
        check(self.cuda.cuCtxSetCurrent(self.context), "cuCtxSetCurrent")
        memory = ctypes.c_uint64()
        check(self.cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(4 * count)), "cuMemAlloc")
        try:
            check(self.cuda.cuMemsetD32_v2(memory, ctypes.c_uint(value), ctypes.c_size_t(count)), "cuMemsetD32")
            numbers = (ctypes.c_uint * count)()
            check(self.cuda.cuMemcpyDtoH_v2(numbers, memory, ctypes.c_size_t(4 * count)), "cuMemcpyDtoH")
        finally:
            self.cuda.cuMemFree_v2(memory)
        return Output(
            visible=os.environ.get("CUDA_VISIBLE_DEVICES", ""), devices=self.devices(), total=sum(numbers)
        )
