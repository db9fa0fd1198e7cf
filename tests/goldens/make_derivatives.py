"""Makes derivatives.npz: a Burgers residual's gradient and a Hessian-vector product, computed by JAX in float64.

    python make_derivatives.py          (needs jax; the tests need only the file)

network:  u(t, x) = tanh(tanh([t, x] W0 + b0) W1 + b1) W2 + b2, sizes 2, 8, 8, 1
residual: u_t + u u_x - nu u_xx at 16 points; loss: the mean of its square; nu = 0.01 / pi
hvp:      Hessian of the loss (by all six arrays) times a direction
training: losses of six steps of Adam (learning rate 5e-3, beta 0.9 and 0.999, epsilon 1e-8 added to the square root,
          bias corrections in the learning rate) on that loss plus the mean of (u(0, x) + sin(pi x))^2
"""

import pathlib

import numpy as np

SIZES = (2, 8, 8, 1)
NU = 0.01 / np.pi


def arrays():
    rng = np.random.default_rng(5)
    found = {}
    for k, (m, n) in enumerate(zip(SIZES[:-1], SIZES[1:], strict=True)):
        found[f"w{k}"] = rng.normal(size=(m, n)) / np.sqrt(m)
        found[f"b{k}"] = 0.1 * rng.normal(size=n)
    found |= {f"v_{name}": rng.normal(size=a.shape) for name, a in list(found.items())}
    found["points"] = rng.uniform(-1, 1, (16, 2))
    return found


def training(jax, jnp, loss, u, params, points):
    def whole(params):
        start = jax.vmap(lambda p: u(params, 0.0, p[1]) + jnp.sin(jnp.pi * p[1]))(points)
        return loss(params) + jnp.mean(start**2)

    step, losses = jax.jit(jax.value_and_grad(whole)), []
    m, v = (dict.fromkeys(params, 0.0) for _ in range(2))
    for k in range(1, 7):
        value, gradient = step(params)
        losses.append(float(value))
        rate = 5e-3 * np.sqrt(1 - 0.999**k) / (1 - 0.9**k)
        m = {n: 0.9 * m[n] + 0.1 * g for n, g in gradient.items()}
        v = {n: 0.999 * v[n] + 0.001 * g * g for n, g in gradient.items()}
        params = {n: p - rate * m[n] / (jnp.sqrt(v[n]) + 1e-8) for n, p in params.items()}
    return np.array(losses)


def main():
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    data = arrays()
    names = [f"{kind}{k}" for k in range(3) for kind in "wb"]

    def u(params, t, x):
        h = jnp.stack([t, x])
        for k in range(2):
            h = jnp.tanh(h @ params[f"w{k}"] + params[f"b{k}"])
        return (h @ params["w2"] + params["b2"])[0]

    def residual(params, point):
        t, x = point
        ut, ux = jax.grad(u, 1)(params, t, x), jax.grad(u, 2)(params, t, x)
        uxx = jax.grad(jax.grad(u, 2), 2)(params, t, x)
        return ut + u(params, t, x) * ux - NU * uxx

    def loss(params):
        return jnp.mean(jax.vmap(lambda p: residual(params, p))(data["points"]) ** 2)

    params = {n: jnp.asarray(data[n]) for n in names}
    direction = {n: jnp.asarray(data[f"v_{n}"]) for n in names}
    value, gradient = jax.value_and_grad(loss)(params)
    product = jax.jvp(jax.grad(loss), (params,), (direction,))[1]
    found = {"loss": value, "residual": jax.vmap(lambda p: residual(params, p))(data["points"])}
    found |= {f"g_{n}": gradient[n] for n in names} | {f"h_{n}": product[n] for n in names}
    found["losses"] = training(jax, jnp, loss, u, params, data["points"])
    target = pathlib.Path(__file__).with_name("derivatives.npz")
    np.savez_compressed(target, **data, **{n: np.asarray(a) for n, a in found.items()})


if __name__ == "__main__":
    main()
