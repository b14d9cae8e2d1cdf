"""The GLSL programs of the renderer and the constants of its light.

Not here: any call of OpenGL.  The shading model and its numbers are those of PyBullet's OpenGL renderer (bullet3
``examples/OpenGLWindow/GLInstancingRenderer.cpp``, ``eglRendererVisualShapeConverter.cpp``), checked against pictures
of the original environment: half-Lambert light from far away, one half of it ambient, a highlight with exponent 41,
and a shadow that darkens by three tenths, softened by bilinear comparison.  Light is computed at the corners of
triangles, not at pixels: on a CPU that halves the time, and at these resolutions nothing of it can be seen.
A pixel's fourth number says how much of its light is left in the shadow, and once it has been lit whether more shadow
would change it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BACKGROUND = (0.7, 0.7, 0.8)
LIGHT_POSITION = (-5.0, -40.0, 200.0)
"""Metres from the origin: so far away that its rays are parallel."""

HIGHLIGHT_EYE = (-1.4548, -0.2565, 0.2605)
"""Where highlights are seen from: Bullet's default camera (distance 1.5 m, yaw -80°, pitch -10°, at the origin).

PyBullet hands its matrices to the drawing but leaves this point alone, so highlights do not follow the view.
"""

SHADOW_TEXEL = 20.0 / 4096
"""Metres a shadow-map texel: Bullet spreads 4096 over 20 m.  Here only the middle of that map is drawn."""

SHADOW_SIZE = 320
"""Texels along a side of the part that is drawn: ±0.78 m around the table."""

SHADOW_DEPTH = (1.0, 300.0)

MAX_OBJECTS = 96

_OBJECTS = """
struct Object {
    mat4x3 world;
    vec4 tint;
};
layout(std140, row_major) uniform Objects {
    Object objects[%(max_objects)s];
};
"""

VERTEX = """
#version 330
%(objects)s
const vec3 TO_LIGHT = normalize(vec3(%(light)s));
const vec3 HIGHLIGHT_EYE = vec3(%(eye)s);
uniform mat4 clip_from_world;
uniform mat4 shadow_from_world;
in vec3 position;
in vec3 normal;
in vec4 colour_and_object;
%(declare_in)s
out vec2 light;
out vec3 shadow_point;
%(declare_out)s
void main() {
    int object = int(colour_and_object.w * 255.0 + 0.5);
    vec3 world = objects[object].world * vec4(position, 1.0);
    vec3 n = mat3(objects[object].world) * normal;
    float facing = dot(n, TO_LIGHT);
    float diffuse = 0.5 + 0.5 * facing;
    float mirrored = max(dot(normalize(HIGHLIGHT_EYE - world), reflect(-TO_LIGHT, n)), 0.0);
    float squared = mirrored * mirrored, fourth = squared * squared, eighth = fourth * fourth;
    float highlight = eighth * eighth * eighth * eighth * eighth * mirrored;
    float shaded = 0.5 + 0.35 * diffuse;
    float lit = shaded + (facing < 0.0 ? 0.0 : 0.15 * diffuse + 0.5 * highlight);
    light = vec2(lit, shaded / lit);
    shadow_point = (shadow_from_world * vec4(world, 1.0)).xyz * 0.5 + 0.5;
    %(hand_on)s
    gl_Position = clip_from_world * vec4(world, 1.0);
}
"""

FRAGMENT = """
#version 330
uniform sampler2DShadow shadow_map;
in vec2 light;
in vec3 shadow_point;
out vec4 pixel;
%(declare)s
void main() {
    pixel = vec4(%(base)s * (light.x * mix(light.y, 1.0, texture(shadow_map, shadow_point))), light.y);
}
"""

_PLAIN = {
    "declare_in": "",
    "declare_out": "flat out vec3 surface;",
    "hand_on": "surface = colour_and_object.rgb * objects[object].tint.rgb;",
    "declare": "flat in vec3 surface;",
    "base": "surface",
}
_TEXTURED = {
    "declare_in": "in vec2 uv;",
    "declare_out": "out vec2 image_point;",
    "hand_on": "image_point = uv;",
    "declare": "uniform sampler2D image;\nin vec2 image_point;",
    "base": "texture(image, image_point).rgb",
}

SHADOW_VERTEX = """
#version 330
%(objects)s
uniform mat4 shadow_from_world;
in vec3 position;
in vec4 colour_and_object;
void main() {
    int object = int(colour_and_object.w * 255.0 + 0.5);
    vec3 world = objects[object].world * vec4(position, 1.0);
    gl_Position = shadow_from_world * vec4(world, 1.0);
}
"""

SHADOW_FRAGMENT = """
#version 330
void main() {}
"""

RELIGHT_VERTEX = """
#version 330
in vec2 corner;
void main() {
    gl_Position = vec4(corner, 0.0, 1.0);
}
"""

RELIGHT_FRAGMENT = """
#version 330
uniform sampler2D lit;
uniform sampler2D depth;
uniform sampler2DShadow shadow_map;
uniform mat4 shadow_from_pixel;
out vec4 pixel;
void main() {
    ivec2 at = ivec2(gl_FragCoord.xy);
    vec4 point = shadow_from_pixel * vec4(gl_FragCoord.xy, texelFetch(depth, at, 0).r, 1.0);
    vec4 surface = texelFetch(lit, at, 0);
    float reached = texture(shadow_map, point.xyz * (1.0 / point.w));
    pixel = vec4(surface.rgb * mix(surface.a, 1.0, reached), reached > 0.0 && surface.a < 1.0);
}
"""


def program_sources() -> dict[str, dict[str, str]]:
    """Return the sources of the programs ``plain``, ``textured``, ``shadow`` and ``relight``, by stage."""
    values = {
        "objects": _OBJECTS.strip() % {"max_objects": MAX_OBJECTS},
        "light": ", ".join(str(float(x)) for x in LIGHT_POSITION),
        "eye": ", ".join(str(float(x)) for x in HIGHLIGHT_EYE),
    }
    sources = {
        name: {
            "vertex_shader": VERTEX.strip() % (values | kind),
            "fragment_shader": FRAGMENT.strip() % kind,
        }
        for name, kind in (("plain", _PLAIN), ("textured", _TEXTURED))
    }
    shadow = {"vertex_shader": SHADOW_VERTEX.strip() % values, "fragment_shader": SHADOW_FRAGMENT.strip()}
    relight = {"vertex_shader": RELIGHT_VERTEX.strip(), "fragment_shader": RELIGHT_FRAGMENT.strip()}
    return {**sources, "shadow": shadow, "relight": relight}


def shadow_from_world() -> NDArray[np.float64]:
    """Return the 4x4 matrix from world points to the shadow map's clip space (x, y, z in -1..1).

    Its texels lie where Bullet's do: the map is centred on the origin and turned as ``btPlaneSpace1`` turns it.
    """
    light = np.asarray(LIGHT_POSITION)
    distance = np.linalg.norm(light)
    back = light / distance
    up = np.array([0.0, -back[2], back[1]]) / np.hypot(back[1], back[2])
    right = np.cross(up, back)
    half = SHADOW_TEXEL * SHADOW_SIZE / 2
    near, far = SHADOW_DEPTH
    matrix = np.eye(4)
    matrix[0, :3] = right / half
    matrix[1, :3] = up / half
    matrix[2, :3] = -2 / (far - near) * back
    matrix[2, 3] = (2 * distance - far - near) / (far - near)
    return matrix
