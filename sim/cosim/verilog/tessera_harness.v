// The top of a co-simulation: the NPU, a memory behind it, a clock, a reset and the host's access to its registers.
//
// Python is not in the clock loop. It reads and writes the signals named host_*, which are the only ones that stay
// visible in a fast build (harness.vlt), and wakes up when a request is done or the interrupt rises. Requests and
// their answers are toggles: a request is pending while `request != done`.

`default_nettype none

module tessera_harness #(
    parameter AXI_DATA_BITS    = 128,
    parameter AXI_ADDRESS_BITS = 40,
    parameter AXI_ID_BITS      = 2,
    parameter UNITS            = 10,
    parameter TRAFFIC_SOURCES  = 7,        // whose bytes the bandwidth monitor counts
    parameter TRAFFIC_OTHERS   = 4,        // those outside the NPU
    parameter WINDOW_BYTES_BITS = 29,      // of the bytes of a window
    parameter OTHER_ID_BITS    = 2,
    parameter MEMORY_BYTES     = 16777216  // a power of two
) ();
    localparam AXI_STROBE_BITS = AXI_DATA_BITS / 8;
    localparam [7:0]  BEAT_BYTES = AXI_STROBE_BITS[7:0];
    localparam [15:0] BEAT_PER_CYCLE = {AXI_STROBE_BITS[7:0], 8'd0};  // in 1/256 byte

    // ---------------------------------------------------------------------------------------------- clock and reset
    reg        host_reset = 1;
    reg [63:0] host_cycles = 0;  // rising clock edges since the start
    reg        clk = 0;
    reg        rst = 1;

    initial forever #5 clk = ~clk;

    always @(posedge clk) begin
        host_cycles <= host_cycles + 1;
        rst <= host_reset;
    end

    // -------------------------------------------------------------------------------------------- what Python waits for
    // These change in the middle of a cycle. When Python wakes up everything else is stable, and what it writes then is
    // there before the next rising edge, whatever the simulator's order of events.
    wire       irq, register_done, memory_done;
    reg        host_irq = 0;
    reg [63:0] host_irq_cycle = 0;  // value of host_cycles in the first cycle of the newest interrupt
    reg        host_register_done = 0;
    reg        host_memory_done = 0;
    reg [63:0] host_alarm_cycle = 64'hffff_ffff_ffff_ffff;
    reg        host_alarm = 0;  // toggles in the cycle host_alarm_cycle

    always @(negedge clk) begin
        if (irq && !host_irq) host_irq_cycle <= host_cycles;
        host_irq <= irq;
        host_register_done <= register_done;
        host_memory_done <= memory_done;
        if (host_cycles == host_alarm_cycle) host_alarm <= ~host_alarm;
    end

    // -------------------------------------------------------------------------------------------------------- trace
    // While host_trace is 1, trace.txt gets a line with cycle and units for each cycle in which a unit completed an
    // instruction, and a line "select", cycle, operation, depth code and section for each select instruction.
    wire [UNITS-1:0] trace_done;
    wire             trace_select;
    wire       [5:0] trace_operation;
    wire       [1:0] trace_depth, trace_section;
    reg              host_trace = 0;
    integer          trace_file = 0;

    always @(posedge host_trace) trace_file = $fopen("trace.txt", "w");
    always @(negedge host_trace) if (trace_file != 0) $fclose(trace_file);
    always @(posedge clk) begin
        if (host_trace && trace_done != 0) $fwrite(trace_file, "%0d %0d\n", host_cycles, trace_done);
        if (host_trace && trace_select)
            $fwrite(trace_file, "select %0d %0d %0d %0d\n", host_cycles, trace_operation, trace_depth, trace_section);
    end

    // -------------------------------------------------------------------------------------------- stalls on request
    // Each byte is the probability of a stall, in 1/256 per cycle, on one channel.
    reg [31:0] host_stall_seed = 1;
    reg  [7:0] host_stall_ar = 0;
    reg  [7:0] host_stall_r = 0;
    reg  [7:0] host_stall_aw = 0;
    reg  [7:0] host_stall_w = 0;
    reg  [7:0] host_stall_b = 0;
    reg  [7:0] host_stall_register = 0;
    wire       stall_ar, stall_r, stall_aw, stall_w, stall_b, stall_register;
    wire [7:0] traffic_random_byte;

    cosim_stalls stalls (
        .clk(clk),
        .seed(host_stall_seed),
        .ar(host_stall_ar), .r(host_stall_r), .aw(host_stall_aw), .w(host_stall_w), .b(host_stall_b),
        .register(host_stall_register),
        .stall_ar(stall_ar), .stall_r(stall_r), .stall_aw(stall_aw), .stall_w(stall_w), .stall_b(stall_b),
        .stall_register(stall_register),
        .random_byte(traffic_random_byte)
    );

    // ---------------------------------------------------------------------------------------------- register access
    reg         host_register_request = 0;
    reg         host_register_write = 0;
    reg  [11:0] host_register_address = 0;
    reg  [31:0] host_register_wdata = 0;
    reg   [3:0] host_register_wstrb = 15;
    wire [31:0] host_register_rdata;
    wire  [1:0] host_register_response;

    wire [11:0] s_axi_awaddr, s_axi_araddr;
    wire [31:0] s_axi_wdata, s_axi_rdata;
    wire  [3:0] s_axi_wstrb;
    wire  [1:0] s_axi_bresp, s_axi_rresp;
    wire        s_axi_awvalid, s_axi_awready, s_axi_wvalid, s_axi_wready, s_axi_bvalid, s_axi_bready;
    wire        s_axi_arvalid, s_axi_arready, s_axi_rvalid, s_axi_rready;

    cosim_register_master register_master (
        .clk(clk), .rst(rst), .stall(stall_register),
        .request(host_register_request), .done(register_done),
        .write(host_register_write), .address(host_register_address),
        .wdata(host_register_wdata), .wstrb(host_register_wstrb),
        .rdata(host_register_rdata), .response(host_register_response),
        .axi_awaddr(s_axi_awaddr), .axi_awvalid(s_axi_awvalid), .axi_awready(s_axi_awready),
        .axi_wdata(s_axi_wdata), .axi_wstrb(s_axi_wstrb), .axi_wvalid(s_axi_wvalid), .axi_wready(s_axi_wready),
        .axi_bresp(s_axi_bresp), .axi_bvalid(s_axi_bvalid), .axi_bready(s_axi_bready),
        .axi_araddr(s_axi_araddr), .axi_arvalid(s_axi_arvalid), .axi_arready(s_axi_arready),
        .axi_rdata(s_axi_rdata), .axi_rresp(s_axi_rresp), .axi_rvalid(s_axi_rvalid), .axi_rready(s_axi_rready)
    );

    // ------------------------------------------------------------------------------------------------------- memory
    reg  [15:0]                 host_read_latency = 40;   // cycles from AR to the first R
    reg  [15:0]                 host_write_latency = 40;  // cycles from the last W to B
    reg  [15:0]                 host_bandwidth = BEAT_PER_CYCLE;  // 1/256 byte per cycle, all masters together
    reg   [8:0]                 host_traffic_share = 0;   // the second master's share of it, in 1/256
    reg                         host_traffic_random = 0;  // at random instead of evenly
    reg                         host_load = 0;            // a load profile says both (cosim_load)
    reg                         host_load_repeats = 0;
    reg                         host_windows = 0;         // windows of the bandwidth monitor are recorded (cosim_windows)
    reg  [AXI_ADDRESS_BITS-1:0] host_error_base = 0;      // accesses from here ...
    reg  [AXI_ADDRESS_BITS-1:0] host_error_limit = 0;     // ... to before here are answered with SLVERR
    // Where the masters inside the NPU may go; the first address behind may be that of the whole address space.
    localparam [AXI_ADDRESS_BITS:0] EVERYTHING = {1'b1, {AXI_ADDRESS_BITS{1'b0}}};
    reg  [AXI_ADDRESS_BITS:0]   host_code_base = 0, host_code_limit = EVERYTHING;
    reg  [AXI_ADDRESS_BITS:0]   host_load_base = 0, host_load_limit = EVERYTHING;
    reg  [AXI_ADDRESS_BITS:0]   host_store_base = 0, host_store_limit = EVERYTHING;
    wire [63:0]                 host_npu_read_bytes;
    wire [63:0]                 host_npu_write_bytes;
    wire [63:0]                 host_traffic_bytes;

    reg                         host_memory_request = 0;
    reg   [1:0]                 host_memory_command = 0;
    reg  [AXI_ADDRESS_BITS-1:0] host_memory_address = 0;
    reg  [31:0]                 host_memory_words = 0;
    reg  [AXI_DATA_BITS-1:0]    host_memory_wdata = 0;
    reg  [AXI_STROBE_BITS-1:0]  host_memory_wstrb = 0;
    wire [AXI_DATA_BITS-1:0]    host_memory_rdata;
    wire                        host_memory_failed;

    wire [AXI_ID_BITS-1:0]      m_axi_awid, m_axi_bid, m_axi_arid, m_axi_rid;
    wire [AXI_ADDRESS_BITS-1:0] m_axi_awaddr, m_axi_araddr;
    wire  [7:0]                 m_axi_awlen, m_axi_arlen;
    wire  [2:0]                 m_axi_awsize, m_axi_arsize;
    wire  [1:0]                 m_axi_awburst, m_axi_arburst, m_axi_bresp, m_axi_rresp;
    wire [AXI_DATA_BITS-1:0]    m_axi_wdata, m_axi_rdata;
    wire [AXI_STROBE_BITS-1:0]  m_axi_wstrb;
    wire                        m_axi_awvalid, m_axi_awready, m_axi_wvalid, m_axi_wready, m_axi_wlast;
    wire                        m_axi_bvalid, m_axi_bready, m_axi_arvalid, m_axi_arready;
    wire                        m_axi_rvalid, m_axi_rready, m_axi_rlast;
    wire                        wlast_expected;

    wire                     load_active, load_random, traffic_beat;
    wire               [8:0] load_share;
    wire [OTHER_ID_BITS-1:0] load_id;

    cosim_load #(.ID_BITS(OTHER_ID_BITS)) load (
        .clk(clk), .run(host_load), .repeats(host_load_repeats),
        .active(load_active), .share(load_share), .id(load_id), .random(load_random)
    );

    tessera_dram #(
        .DATA_BITS(AXI_DATA_BITS), .ADDRESS_BITS(AXI_ADDRESS_BITS), .ID_BITS(AXI_ID_BITS), .BYTES(MEMORY_BYTES)
    ) dram (
        .clk(clk), .rst(rst), .now(host_cycles),
        .read_latency(host_read_latency), .write_latency(host_write_latency), .bandwidth(host_bandwidth),
        .traffic_share(load_active ? load_share : host_traffic_share),
        .traffic_random(load_active ? load_random : host_traffic_random), .random_byte(traffic_random_byte),
        .error_base(host_error_base), .error_limit(host_error_limit),
        .stall_ar(stall_ar), .stall_r(stall_r), .stall_aw(stall_aw), .stall_w(stall_w), .stall_b(stall_b),
        .npu_read_bytes(host_npu_read_bytes), .npu_write_bytes(host_npu_write_bytes),
        .traffic_bytes(host_traffic_bytes), .traffic_beat(traffic_beat), .wlast_expected(wlast_expected),
        .host_request(host_memory_request), .host_done(memory_done), .host_command(host_memory_command),
        .host_address(host_memory_address), .host_words(host_memory_words),
        .host_wdata(host_memory_wdata), .host_wstrb(host_memory_wstrb),
        .host_rdata(host_memory_rdata), .host_failed(host_memory_failed),
        .axi_awid(m_axi_awid), .axi_awaddr(m_axi_awaddr), .axi_awlen(m_axi_awlen),
        .axi_awvalid(m_axi_awvalid), .axi_awready(m_axi_awready),
        .axi_wdata(m_axi_wdata), .axi_wstrb(m_axi_wstrb), .axi_wvalid(m_axi_wvalid), .axi_wready(m_axi_wready),
        .axi_bid(m_axi_bid), .axi_bresp(m_axi_bresp), .axi_bvalid(m_axi_bvalid), .axi_bready(m_axi_bready),
        .axi_arid(m_axi_arid), .axi_araddr(m_axi_araddr), .axi_arlen(m_axi_arlen),
        .axi_arvalid(m_axi_arvalid), .axi_arready(m_axi_arready),
        .axi_rid(m_axi_rid), .axi_rdata(m_axi_rdata), .axi_rresp(m_axi_rresp), .axi_rlast(m_axi_rlast),
        .axi_rvalid(m_axi_rvalid), .axi_rready(m_axi_rready)
    );

    // ---------------------------------------------------------------------------------------------- protocol checks
    wire [31:0]     host_axi_violations;
    wire [8*48-1:0] host_axi_first_violation;  // a sentence in ASCII; zero if there was none

    cosim_axi_checker #(
        .DATA_BITS(AXI_DATA_BITS), .ADDRESS_BITS(AXI_ADDRESS_BITS), .ID_BITS(AXI_ID_BITS)
    ) axi_checker (
        .clk(clk), .rst(rst),
        .violations(host_axi_violations), .first_violation(host_axi_first_violation),
        .code_base(host_code_base), .code_limit(host_code_limit),
        .load_base(host_load_base), .load_limit(host_load_limit),
        .store_base(host_store_base), .store_limit(host_store_limit),
        .aw_id(m_axi_awid), .aw_address(m_axi_awaddr), .aw_len(m_axi_awlen), .aw_size(m_axi_awsize),
        .aw_burst(m_axi_awburst), .aw_valid(m_axi_awvalid), .aw_ready(m_axi_awready),
        .w_data(m_axi_wdata), .w_strb(m_axi_wstrb), .w_last(m_axi_wlast), .w_last_expected(wlast_expected),
        .w_valid(m_axi_wvalid), .w_ready(m_axi_wready),
        .ar_id(m_axi_arid), .ar_address(m_axi_araddr), .ar_len(m_axi_arlen), .ar_size(m_axi_arsize),
        .ar_burst(m_axi_arburst), .ar_valid(m_axi_arvalid), .ar_ready(m_axi_arready),
        .register_bresp(s_axi_bresp), .register_bvalid(s_axi_bvalid), .register_bready(s_axi_bready),
        .register_rdata(s_axi_rdata), .register_rresp(s_axi_rresp), .register_rvalid(s_axi_rvalid),
        .register_rready(s_axi_rready)
    );

    // -------------------------------------------------------------------------------------- what the monitor has seen
    wire                                         window_begins, window_shown;
    wire [TRAFFIC_SOURCES*WINDOW_BYTES_BITS-1:0] window_bytes;
    wire                 [WINDOW_BYTES_BITS-1:0] window_available;
    wire                                   [1:0] window_section;
    wire                     [OTHER_ID_BITS-1:0] traffic_id = load_active ? load_id : {OTHER_ID_BITS{1'b0}};

    cosim_windows #(
        .BEAT_BYTES(AXI_STROBE_BITS), .SOURCES(TRAFFIC_SOURCES), .OTHERS(TRAFFIC_OTHERS),
        .BYTES_BITS(WINDOW_BYTES_BITS), .ID_BITS(AXI_ID_BITS), .OTHER_BITS(OTHER_ID_BITS)
    ) windows (
        .clk(clk), .now(host_cycles), .record(host_windows), .begins(window_begins), .shown(window_shown),
        .monitor_bytes(window_bytes), .monitor_available(window_available), .monitor_section(window_section),
        .other_beat(traffic_beat), .other_id(traffic_id),
        .read_beat(m_axi_rvalid && m_axi_rready), .read_id(m_axi_rid), .write_beat(m_axi_wvalid && m_axi_wready)
    );

    // ------------------------------------------------------------------------------------------------------ the NPU
    tessera npu (
        .clk(clk), .rst(rst), .irq(irq), .trace_done(trace_done),
        .trace_select(trace_select), .trace_operation(trace_operation), .trace_depth(trace_depth),
        .trace_section(trace_section),
        .monitor_valid(traffic_beat), .monitor_id(traffic_id), .monitor_bytes(BEAT_BYTES),
        .trace_window_begins(window_begins), .trace_window_shown(window_shown), .trace_window_bytes(window_bytes),
        .trace_window_available(window_available), .trace_window_section(window_section),
        .s_axi_awaddr(s_axi_awaddr), .s_axi_awvalid(s_axi_awvalid), .s_axi_awready(s_axi_awready),
        .s_axi_wdata(s_axi_wdata), .s_axi_wstrb(s_axi_wstrb), .s_axi_wvalid(s_axi_wvalid), .s_axi_wready(s_axi_wready),
        .s_axi_bresp(s_axi_bresp), .s_axi_bvalid(s_axi_bvalid), .s_axi_bready(s_axi_bready),
        .s_axi_araddr(s_axi_araddr), .s_axi_arvalid(s_axi_arvalid), .s_axi_arready(s_axi_arready),
        .s_axi_rdata(s_axi_rdata), .s_axi_rresp(s_axi_rresp), .s_axi_rvalid(s_axi_rvalid), .s_axi_rready(s_axi_rready),
        .m_axi_awid(m_axi_awid), .m_axi_awaddr(m_axi_awaddr), .m_axi_awlen(m_axi_awlen), .m_axi_awsize(m_axi_awsize),
        .m_axi_awburst(m_axi_awburst), .m_axi_awvalid(m_axi_awvalid), .m_axi_awready(m_axi_awready),
        .m_axi_wdata(m_axi_wdata), .m_axi_wstrb(m_axi_wstrb), .m_axi_wlast(m_axi_wlast),
        .m_axi_wvalid(m_axi_wvalid), .m_axi_wready(m_axi_wready),
        .m_axi_bid(m_axi_bid), .m_axi_bresp(m_axi_bresp), .m_axi_bvalid(m_axi_bvalid), .m_axi_bready(m_axi_bready),
        .m_axi_arid(m_axi_arid), .m_axi_araddr(m_axi_araddr), .m_axi_arlen(m_axi_arlen), .m_axi_arsize(m_axi_arsize),
        .m_axi_arburst(m_axi_arburst), .m_axi_arvalid(m_axi_arvalid), .m_axi_arready(m_axi_arready),
        .m_axi_rid(m_axi_rid), .m_axi_rdata(m_axi_rdata), .m_axi_rresp(m_axi_rresp), .m_axi_rlast(m_axi_rlast),
        .m_axi_rvalid(m_axi_rvalid), .m_axi_rready(m_axi_rready)
    );
endmodule

`default_nettype wire
