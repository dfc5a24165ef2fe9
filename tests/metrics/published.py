"""InceptionV3 and I3D in PyTorch under the names that their weights were published with."""

import torch
from torch import nn
from torch.nn import functional as F


class Conv(nn.Module):
    """`BasicConv2d`."""

    def __init__(self, c_in, c_out, kernel, **how):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, bias=False, **how)
        self.bn = nn.BatchNorm2d(c_out, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def pooled(x):
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class A(nn.Module):
    def __init__(self, c, k):
        super().__init__()
        self.branch1x1 = Conv(c, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Conv(c, 48, 1), Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Conv(c, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(c, k, 1)

    def forward(self, x):
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(pooled(x))], 1)


class B(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.branch3x3 = Conv(c, 384, 3, stride=2)
        self.branch3x3dbl_1 = Conv(c, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2)

    def forward(self, x):
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, stride=2)], 1)


class C(nn.Module):
    def __init__(self, c, d):
        super().__init__()
        wide, high = {"padding": (0, 3)}, {"padding": (3, 0)}
        self.branch1x1 = Conv(c, 192, 1)
        self.branch7x7_1 = Conv(c, d, 1)
        self.branch7x7_2 = Conv(d, d, (1, 7), **wide)
        self.branch7x7_3 = Conv(d, 192, (7, 1), **high)
        self.branch7x7dbl_1 = Conv(c, d, 1)
        self.branch7x7dbl_2 = Conv(d, d, (7, 1), **high)
        self.branch7x7dbl_3 = Conv(d, d, (1, 7), **wide)
        self.branch7x7dbl_4 = Conv(d, d, (7, 1), **high)
        self.branch7x7dbl_5 = Conv(d, 192, (1, 7), **wide)
        self.branch_pool = Conv(c, 192, 1)

    def forward(self, x):
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = x
        for i in range(1, 6):
            twice = getattr(self, f"branch7x7dbl_{i}")(twice)
        return torch.cat([self.branch1x1(x), seven, twice, self.branch_pool(pooled(x))], 1)


class D(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(c, 192, 1), Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Conv(c, 192, 1)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2)

    def forward(self, x):
        seven = x
        for i in range(1, 5):
            seven = getattr(self, f"branch7x7x3_{i}")(seven)
        three = self.branch3x3_2(self.branch3x3_1(x))
        return torch.cat([three, seven, F.max_pool2d(x, 3, stride=2)], 1)


class E(nn.Module):
    def __init__(self, c, largest):
        super().__init__()
        self.largest = largest
        self.branch1x1 = Conv(c, 320, 1)
        self.branch3x3_1 = Conv(c, 384, 1)
        self.branch3x3_2a = Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Conv(c, 448, 1)
        self.branch3x3dbl_2 = Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Conv(c, 192, 1)

    def forward(self, x):
        one = self.branch3x3_1(x)
        two = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pool = F.max_pool2d(x, 3, stride=1, padding=1) if self.largest else pooled(x)
        parts = [self.branch1x1(x), self.branch3x3_2a(one), self.branch3x3_2b(one)]
        parts += [self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two), self.branch_pool(pool)]
        return torch.cat(parts, 1)


class InceptionV3(nn.Module):
    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Conv(64, 80, 1), Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = A(192, 32), A(256, 64), A(288, 64)
        self.Mixed_6a = B(288)
        self.Mixed_6b, self.Mixed_6c = C(768, 128), C(768, 160)
        self.Mixed_6d, self.Mixed_6e = C(768, 160), C(768, 192)
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = D(768), E(1280, False), E(2048, True)
        self.fc = nn.Linear(2048, 1008)

    def features(self, x):
        """Pictures in [-1, 1]."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = F.max_pool2d(x, 3, stride=2)
        for name in "5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c".split():
            x = getattr(self, f"Mixed_{name}")(x)
        return x.mean((2, 3))

    def forward(self, frames):
        """uint8 [n, h, w, 3], prepared as pytorch-fid does."""
        x = frames.permute(0, 3, 1, 2).float() / 255
        x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        return self.features(2 * x - 1)


def padding(sizes: list[int], kernel: list[int], stride: list[int]) -> list[int]:
    """TensorFlow's, for `F.pad`: what makes ceil(size / stride) windows, the odd one at the end."""
    out: list[int] = []
    for axis in [2, 1, 0]:
        count = -(-sizes[axis] // stride[axis])
        missing = max((count - 1) * stride[axis] + kernel[axis] - sizes[axis], 0)
        out.append(missing // 2)
        out.append(missing - missing // 2)
    return out


class Conv3(nn.Module):
    """`Unit3Dpy`."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1):
        super().__init__()
        self.kernel, self.stride = [kernel] * 3, [stride] * 3
        self.conv3d = nn.Conv3d(c_in, c_out, kernel, stride=stride, bias=False)
        self.batch3d = nn.BatchNorm3d(c_out, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, padding(list(x.shape[2:]), self.kernel, self.stride))
        return F.relu(self.batch3d(self.conv3d(x)))


class Pool3(nn.Module):
    """`MaxPool3dTFPadding`: zeros around."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.kernel, self.stride = list(kernel), list(stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, padding(list(x.shape[2:]), self.kernel, self.stride))
        return F.max_pool3d(x, self.kernel, self.stride)


class Mixed(nn.Module):
    def __init__(self, c: int, widths: tuple[int, ...]):
        super().__init__()
        a, b, c2, d, e, f = widths
        self.branch_0 = Conv3(c, a, 1)
        self.branch_1 = nn.Sequential(Conv3(c, b, 1), Conv3(b, c2, 3))
        self.branch_2 = nn.Sequential(Conv3(c, d, 1), Conv3(d, e, 3))
        self.branch_3 = nn.Sequential(Pool3((3, 3, 3), (1, 1, 1)), Conv3(c, f, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], 1
        )


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, 400, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv3d(x)


class I3D(nn.Module):
    """`side` is the picture's: 224 as published."""

    def __init__(self, side: int = 224):
        super().__init__()
        self.side = side
        self.conv3d_1a_7x7 = Conv3(3, 64, 7, 2)
        self.conv3d_2b_1x1, self.conv3d_2c_3x3 = Conv3(64, 64, 1), Conv3(64, 192, 3)
        self.pool_2a = Pool3((1, 3, 3), (1, 2, 2))
        self.pool_4a, self.pool_5a = Pool3((3, 3, 3), (2, 2, 2)), Pool3((2, 2, 2), (2, 2, 2))
        self.mixed_3b = Mixed(192, (64, 96, 128, 16, 32, 32))
        self.mixed_3c = Mixed(256, (128, 128, 192, 32, 96, 64))
        self.mixed_4b = Mixed(480, (192, 96, 208, 16, 48, 64))
        self.mixed_4c = Mixed(512, (160, 112, 224, 24, 64, 64))
        self.mixed_4d = Mixed(512, (128, 128, 256, 24, 64, 64))
        self.mixed_4e = Mixed(512, (112, 144, 288, 32, 64, 64))
        self.mixed_4f = Mixed(528, (256, 160, 320, 32, 128, 128))
        self.mixed_5b = Mixed(832, (256, 160, 320, 32, 128, 128))
        self.mixed_5c = Mixed(832, (384, 192, 384, 48, 128, 128))
        self.conv3d_0c_1x1 = Last()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Clips [n, 3, t, h, w] from 0 to 255; each frame is squeezed, then all rescaled."""
        n, c, t = x.shape[0], x.shape[1], x.shape[2]
        flat = x.transpose(1, 2).flatten(0, 1)
        flat = F.interpolate(
            flat, size=[self.side, self.side], mode="bilinear", align_corners=False
        )
        x = flat.reshape(n, t, c, self.side, self.side).transpose(1, 2)
        x = 2 * x / 255 - 1
        x = self.pool_2a(self.conv3d_1a_7x7(x))
        x = self.pool_2a(self.conv3d_2c_3x3(self.conv3d_2b_1x1(x)))
        x = self.pool_4a(self.mixed_3c(self.mixed_3b(x)))
        x = self.mixed_4d(self.mixed_4c(self.mixed_4b(x)))
        x = self.pool_5a(self.mixed_4f(self.mixed_4e(x)))
        x = self.mixed_5c(self.mixed_5b(x))
        x = F.avg_pool3d(x, [2, self.side // 32, self.side // 32], stride=1)
        return self.conv3d_0c_1x1(x).flatten(2).mean(2)
